"""What the plots of a report are drawn from: how the cosines are distributed, and recall at every k.

Shapes: S = targets, R = targets that are ranked.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.evaluation.baseline_scores import ScoredBaseline
from lvm_pipeline.evaluation.report import CosineHistogram, RetrievalCurve
from lvm_pipeline.evaluation.scoring import ScoredModel
from lvm_pipeline.measures.baselines import COPY_LAST
from lvm_pipeline.measures.retrieval import num_candidates, primary_exclusion

HISTOGRAM_EDGES = tuple(round(-0.5 + 0.025 * i, 3) for i in range(61))  # cosine, -0.5 to 1
CURVE_BASELINES = (COPY_LAST,)  # drawn beside the model and the best baseline


def cosine_histogram(scored: ScoredModel, best: ScoredBaseline) -> CosineHistogram:
    def counts(values: NDArray[np.float32]) -> tuple[int, ...]:
        clipped = np.clip(values, HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1])
        return tuple(np.histogram(clipped, HISTOGRAM_EDGES)[0].tolist())

    return CosineHistogram(
        edges=HISTOGRAM_EDGES,
        model=counts(scored.scores.closeness.cosine),
        best_baseline=counts(best.scores.closeness.cosine),
    )


def retrieval_curve(scored: ScoredModel, baselines: Mapping[str, ScoredBaseline], best: str) -> RetrievalCurve:
    """Return recall at k, for k from 1 to the pool size."""
    rule = primary_exclusion(scored.targets)
    ks = np.unique(np.round(np.geomspace(1, len(scored.targets.pool_rows), 40)).astype(int))
    candidates = num_candidates(scored.targets, rule)

    def recall(ranks: NDArray[np.int64]) -> tuple[float, ...]:
        return tuple((np.searchsorted(np.sort(ranks), ks, side="right") / len(ranks)).tolist())

    return RetrievalCurve(
        k=tuple(ks.tolist()),
        model=recall(scored.scores.ranks[rule]),
        baselines={name: recall(baselines[name].scores.ranks[rule]) for name in (best, *CURVE_BASELINES)},
        chance=tuple(float(np.minimum(1, k / candidates).mean()) for k in ks.tolist()),
    )
