"""Score the baselines once for each set of targets, and cache the scores.

Regressions take seconds and depend on the data alone, so all models of a sequence table share them. One small file for
each table and split holds the measures of every baseline on every target.

Shapes: S = targets.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lvm_pipeline.evaluation.kept import kept_or_made, kept_path
from lvm_pipeline.evaluation.kept_fits import kept_forecast, kept_ridges
from lvm_pipeline.measures.baselines import Baseline, fit_baselines
from lvm_pipeline.measures.hubness import penalties_of
from lvm_pipeline.measures.metrics import Closeness, Spread, Values
from lvm_pipeline.measures.ranking import RANKING_BASELINES
from lvm_pipeline.measures.retrieval import EXCLUSIONS, Ranks
from lvm_pipeline.measures.scores import Scores, score_predictor
from lvm_pipeline.measures.targets import Targets
from lvm_pipeline.measures.threads import both
from lvm_pipeline.training.provenance import code_version

KIND = "baselines"
KEPT_FILES = 12


@dataclass(frozen=True, kw_only=True)
class ScoredBaseline:
    """What one baseline scored, and what was fitted for it on the train articles."""

    scores: Scores
    fitted: Mapping[str, float] = field(default_factory=dict)


def baseline_scores(
    targets: Targets, *, fingerprint: str, split: str, cache_dir: Path | None
) -> dict[str, ScoredBaseline]:
    """Fit and score every baseline, or read the scores that an earlier call cached in `cache_dir` (None: no cache).

    `fingerprint` is that of the sequence table, which covers the concepts.
    """
    return kept_or_made(
        cache_dir,
        KIND,
        _identity(targets, fingerprint, split),
        make=lambda: _scored(targets, fingerprint=fingerprint, cache_dir=cache_dir),
        pack=_packed,
        unpack=lambda arrays, facts: _unpacked(arrays, facts, num_targets=len(targets.scored)),
        num_kept=KEPT_FILES,
    )


def are_kept(targets: Targets, *, fingerprint: str, split: str, cache_dir: Path) -> bool:
    """Whether an earlier call cached the scores of all baselines."""
    return kept_path(cache_dir, KIND, _identity(targets, fingerprint, split)).exists()


def _identity(targets: Targets, fingerprint: str, split: str) -> list[Any]:
    return [fingerprint, split, targets.context_mode, targets.context_length, code_version(__name__)]


def _scored(targets: Targets, *, fingerprint: str, cache_dir: Path | None) -> dict[str, ScoredBaseline]:
    ridges, forecast = both(
        lambda: kept_ridges(targets, fingerprint=fingerprint, cache_dir=cache_dir),
        lambda: kept_forecast(targets, fingerprint=fingerprint, cache_dir=cache_dir),
    )
    baselines = fit_baselines(targets, forecast_of=lambda _: forecast, ridges_of=lambda _: ridges)
    return {
        baseline.name: ScoredBaseline(
            scores=score_predictor(baseline.predict, targets, penalties=_penalties(baseline, targets)),
            fitted=baseline.fitted,
        )
        for baseline in baselines
    }


def _penalties(baseline: Baseline, targets: Targets) -> Values | None:
    """Return the hubness correction of a baseline that is also a ranking baseline; None for the others."""
    return penalties_of(baseline.predict, targets) if baseline.name in RANKING_BASELINES else None


def _packed(baselines: Mapping[str, ScoredBaseline]) -> tuple[dict[str, Any], Any]:
    arrays, facts = {}, {}
    for name, found in baselines.items():
        is_corrected = found.scores.corrected_ranks is not None
        facts[name] = {
            "fitted": dict(found.fitted),
            "spread": asdict(found.scores.spread),
            "is_corrected": is_corrected,
        }
        arrays |= {f"{name}/{measure}": values for measure, values in asdict(found.scores.closeness).items()}
        for kind, ranks in (("ranks", found.scores.ranks), ("corrected_ranks", found.scores.corrected_ranks)):
            arrays |= {f"{name}/{kind}/{rule}": found for rule, found in (ranks or {}).items()}
    return arrays, facts


def _unpacked(arrays: Mapping[str, Any], facts: Any, *, num_targets: int) -> dict[str, ScoredBaseline] | None:
    kept = {name: _baseline(name, found, arrays) for name, found in facts.items()}
    is_whole = all(len(found.scores.closeness.cosine) == num_targets for found in kept.values())
    return kept if is_whole else None


def _baseline(name: str, facts: Mapping[str, Any], file: Mapping[str, Any]) -> ScoredBaseline:
    measures = Closeness.__dataclass_fields__
    return ScoredBaseline(
        scores=Scores(
            closeness=Closeness(**{measure: file[f"{name}/{measure}"] for measure in measures}),
            ranks=_ranks(f"{name}/ranks", file),
            corrected_ranks=_ranks(f"{name}/corrected_ranks", file) if facts["is_corrected"] else None,
            spread=Spread(**facts["spread"]),
        ),
        fitted=facts["fitted"],
    )


def _ranks(prefix: str, file: Mapping[str, Any]) -> Ranks:
    return {rule: file[f"{prefix}/{rule}"] for rule in EXCLUSIONS}
