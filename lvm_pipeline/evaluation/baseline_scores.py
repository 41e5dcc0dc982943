"""Score the baselines once for each set of targets, and keep what was found.

Regressions cost seconds and depend on the data alone, so twelve models of one sequence table share them. One small file
a table and split holds the measures of every baseline on every target.

Shapes: S = targets.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lvm_pipeline.files import mark_used, prune_cache, staged_file
from lvm_pipeline.measures.baselines import fit_baselines
from lvm_pipeline.measures.metrics import Closeness, Spread
from lvm_pipeline.measures.retrieval import EXCLUSIONS
from lvm_pipeline.measures.scores import Scores, score_predictor
from lvm_pipeline.measures.targets import Targets
from lvm_pipeline.training.provenance import code_version

KEPT_FILES = 12


@dataclass(frozen=True, kw_only=True)
class ScoredBaseline:
    """What one baseline scored, and what was fitted for it on the train articles."""

    scores: Scores
    fitted: Mapping[str, float] = field(default_factory=dict)


def baseline_scores(
    targets: Targets, *, fingerprint: str, split: str, cache_dir: Path | None
) -> dict[str, ScoredBaseline]:
    """Fit and score every baseline, or read what an earlier call kept in `cache_dir` (None keeps nothing).

    `fingerprint` is that of the sequence table, which covers the concepts.
    """
    if cache_dir is None:
        return _scored(targets)
    identity = json.dumps([fingerprint, split, targets.context_mode, targets.context_length, code_version()])
    path = cache_dir / f"baselines-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npz"
    kept = _read(path, num_targets=len(targets.scored))
    if kept is None:
        kept = _scored(targets)
        _write(path, kept)
    mark_used(path)
    prune_cache(cache_dir, "baselines-*.npz", num_kept=KEPT_FILES)
    return kept


def _scored(targets: Targets) -> dict[str, ScoredBaseline]:
    train_mean = targets.train_mean()
    return {
        baseline.name: ScoredBaseline(
            scores=score_predictor(baseline.predict, targets, train_mean=train_mean), fitted=baseline.fitted
        )
        for baseline in fit_baselines(targets)
    }


def _write(path: Path, baselines: Mapping[str, ScoredBaseline]) -> None:
    arrays, facts = {}, {}
    for name, found in baselines.items():
        facts[name] = {"fitted": dict(found.fitted), "spread": asdict(found.scores.spread)}
        arrays |= {f"{name}/{measure}": values for measure, values in asdict(found.scores.closeness).items()}
        arrays |= {f"{name}/{rule}": found.scores.ranks[rule] for rule in EXCLUSIONS}
    with staged_file(path) as staged, staged.open("wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)


def _read(path: Path, *, num_targets: int) -> dict[str, ScoredBaseline] | None:
    """Return what was kept; nothing where there is no file, or it is not whole."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            facts: dict[str, Any] = json.loads(str(file["facts"]))
            kept = {name: _baseline(name, found, file) for name, found in facts.items()}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    is_whole = all(len(found.scores.closeness.cosine) == num_targets for found in kept.values())
    return kept if is_whole else None


def _baseline(name: str, facts: Mapping[str, Any], file: Mapping[str, Any]) -> ScoredBaseline:
    measures = Closeness.__dataclass_fields__
    return ScoredBaseline(
        scores=Scores(
            closeness=Closeness(**{measure: file[f"{name}/{measure}"] for measure in measures}),
            ranks={rule: file[f"{name}/{rule}"] for rule in EXCLUSIONS},
            spread=Spread(**facts["spread"]),
        ),
        fitted=facts["fitted"],
    )
