"""Retrieval of the next concept by a model, compared with baselines made for ranking.

All use one pool: the concepts of the scored split without the earlier rows of the target's article. Every predictor is
ranked twice, by cosine and with the hubness correction, and the better of the two counts. A model with a ranking head
is ranked by the scores of this head, without the correction.

Shapes: R = targets that are ranked, P = candidates in the pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.evaluation.baseline_scores import ScoredBaseline
from lvm_pipeline.evaluation.kept import kept_or_made, kept_path
from lvm_pipeline.measures.baselines import Baseline
from lvm_pipeline.measures.hubness import penalties_of
from lvm_pipeline.measures.ranking import COPY_LAST, fit_ranking_baselines
from lvm_pipeline.measures.retrieval import EARLIER_ROWS, Exclusion
from lvm_pipeline.measures.scores import Scores, ranks_of_sample
from lvm_pipeline.measures.targets import Targets, blocks_of
from lvm_pipeline.measures.threads import in_threads
from lvm_pipeline.measures.uncertainty import Interval, paired_gain
from lvm_pipeline.training.provenance import code_version

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.scoring import ScoredModel

KIND = "ranking"
KEPT_FILES = 12

Ranks = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RankedPredictor:
    """One predictor, ranked by cosine and with the hubness correction; None where there is no correction."""

    name: str
    mrr: float
    corrected_mrr: float | None
    r_at_1: float
    r_at_10: float
    fitted: dict[str, float]

    @property
    def better_mrr(self) -> float:
        return self.mrr if self.corrected_mrr is None else max(self.mrr, self.corrected_mrr)


@dataclass(frozen=True, kw_only=True)
class RankingScores:
    exclusion: Exclusion  # rule of the pool
    predictors: tuple[RankedPredictor, ...]  # the model first
    best_baseline: str  # the ranking baseline with the highest MRR, with or without the correction
    gain: Interval  # MRR of the model minus that of the best ranking baseline, on the same targets


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """Ranks of the targets as they are and with the correction, (R,) each."""

    plain: Ranks
    corrected: Ranks | None
    fitted: Mapping[str, float]

    def as_predictor(self, name: str) -> RankedPredictor:
        return RankedPredictor(
            name=name,
            mrr=float((1 / self.plain).mean()),
            corrected_mrr=None if self.corrected is None else float((1 / self.corrected).mean()),
            r_at_1=float((self.plain <= 1).mean()),
            r_at_10=float((self.plain <= 10).mean()),
            fitted=dict(self.fitted),
        )

    def better(self) -> NDArray[np.float64]:
        """Return the reciprocal ranks with the higher mean, (R,)."""
        return max((1 / ranks for ranks in (self.plain, self.corrected) if ranks is not None), key=np.mean)


def ranking_scores(
    scored: "ScoredModel", copy_last: ScoredBaseline, *, cache_dir: Path | None, seed: int
) -> RankingScores:
    """Rank the targets by a model and by the ranking baselines, of which `copy_last` is ranked already.

    Ranks of baselines are cached in `cache_dir` for the next model (None: no cache). The seed is used to fit the
    ranking query and to resample.
    """
    targets = scored.targets
    baselines = {COPY_LAST: _ranked(copy_last.scores), **ranked_baselines(scored, cache_dir, seed=seed)}
    model = _ranked(scored.scores)
    best = max(baselines, key=lambda name: baselines[name].better().mean())
    return RankingScores(
        exclusion=EARLIER_ROWS,
        predictors=(
            model.as_predictor(scored.info.trial_id),
            *(found.as_predictor(name) for name, found in baselines.items()),
        ),
        best_baseline=best,
        gain=paired_gain(model.better(), baselines[best].better(), targets.ranked.articles, seed=seed),
    )


def _ranked(scores: Scores) -> _Ranked:
    corrected = scores.corrected_ranks
    return _Ranked(
        plain=scores.ranks[EARLIER_ROWS],
        corrected=None if corrected is None else corrected[EARLIER_ROWS],
        fitted={},
    )


def ranked_baselines(
    scored: "ScoredModel", cache_dir: Path | None, *, seed: int, fitted: Sequence[Baseline] | None = None
) -> dict[str, _Ranked]:
    """Rank the targets by the ranking baselines, or read the ranks that an earlier call cached.

    The baselines are fitted here if they are not given as `fitted`.
    """
    targets = scored.targets
    return kept_or_made(
        cache_dir,
        KIND,
        _identity(scored, seed),
        make=lambda: {
            each.name: _ranked_baseline(each, targets) for each in fitted or fit_ranking_baselines(targets, seed=seed)
        },
        pack=_packed,
        unpack=lambda arrays, facts: _unpacked(arrays, facts, num_targets=len(targets.ranked)),
        num_kept=KEPT_FILES,
    )


def are_ranked(scored: "ScoredModel", cache_dir: Path, *, seed: int) -> bool:
    """Whether an earlier call cached the ranks of the ranking baselines."""
    return kept_path(cache_dir, KIND, _identity(scored, seed)).exists()


def _identity(scored: "ScoredModel", seed: int) -> list[Any]:
    targets, fingerprint = scored.targets, scored.data.sequences.metadata.fingerprint
    return [fingerprint, scored.split, targets.context_mode, targets.context_length, seed, code_version(__name__)]


def _ranked_baseline(baseline: Baseline, targets: Targets) -> _Ranked:
    penalties = [None, penalties_of(baseline.predict, targets)]
    predictions = np.concatenate(in_threads(baseline.predict, blocks_of(targets.ranked)))
    plain, corrected = (ranks[EARLIER_ROWS] for ranks in ranks_of_sample(predictions, targets, penalties))
    return _Ranked(plain=plain, corrected=corrected, fitted=baseline.fitted)


def _packed(baselines: Mapping[str, _Ranked]) -> tuple[dict[str, Any], Any]:
    arrays = {f"{name}/{kind}": getattr(found, kind) for name, found in baselines.items() for kind in _KINDS}
    return arrays, {name: dict(found.fitted) for name, found in baselines.items()}


def _unpacked(arrays: Mapping[str, Any], facts: Any, *, num_targets: int) -> dict[str, _Ranked] | None:
    kept = {
        name: _Ranked(**{kind: arrays[f"{name}/{kind}"] for kind in _KINDS}, fitted=fitted)
        for name, fitted in facts.items()
    }
    return kept if all(len(found.plain) == num_targets for found in kept.values()) else None


_KINDS = ("plain", "corrected")
