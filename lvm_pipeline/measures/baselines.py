"""The predictors any model must beat: arithmetic on the context, and ridge regressions.

All are fitted on train targets and scored on the same rows as the model. `article_mean_mix` reads as much as the model
does and exists only where that may be more than five concepts; the others read the T concepts right before the target
(the ridges at most five of them).

Shapes: N = concepts in the table, S = targets, B = targets in a block, D = vector width.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.arithmetic import (
    ArticleMix,
    article_mixes,
    decayed_means,
    fit_article_mix,
    fit_context_mix,
    fit_decay,
)
from lvm_pipeline.measures.ridge import RIDGE, RIDGE_RESIDUAL, fit_ridges
from lvm_pipeline.measures.targets import LONGEST_WINDOW_OF_A_RIDGE, Contexts, Targets

__all__ = [
    "BASELINES",
    "ArticleMix",
    "Baseline",
    "article_mixes",
    "decayed_means",
    "fit_article_mix",
    "fit_baselines",
    "fit_context_mix",
    "fit_decay",
]

COPY_LAST = "copy_last"
CONTEXT_MEAN = "context_mean"
RECENCY_WEIGHTED_MEAN = "recency_weighted_mean"
GLOBAL_MEAN = "global_mean"
ARTICLE_MEAN_MIX = "article_mean_mix"

BASELINES: Mapping[str, str] = {
    GLOBAL_MEAN: "the mean vector of all train concepts, whatever the context",
    COPY_LAST: "the last concept of the context again",
    CONTEXT_MEAN: "the mean of the context",
    RECENCY_WEIGHTED_MEAN: "the mean of the context, each earlier concept weighing less by one factor fitted on train",
    RIDGE: "a linear regression on the context, shrunk towards zero",
    RIDGE_RESIDUAL: "a linear regression on the context, shrunk towards its weighted sum",
    ARTICLE_MEAN_MIX: "decayed mean plus mean of everything so far in the article, both factors fitted on train",
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fitted predictor: `predict` maps some contexts to predictions (B, D); `fitted` is what was fitted."""

    name: str
    predict: Callable[[Contexts], NDArray[np.float32]]
    fitted: dict[str, float] = field(default_factory=dict)


def fit_baselines(targets: Targets) -> Iterator[Baseline]:
    """Fit every baseline on the train targets and yield one after the other, so that memory holds one."""
    vectors, train = targets.vectors, targets.train
    mean = targets.train_mean()
    yield Baseline(name=GLOBAL_MEAN, predict=lambda contexts: np.repeat(mean[None], len(contexts), axis=0))
    yield Baseline(name=COPY_LAST, predict=lambda contexts: np.asarray(vectors[contexts.target_rows - 1], np.float32))
    yield Baseline(name=CONTEXT_MEAN, predict=_decayed(vectors, 1.0))
    decay = fit_decay(vectors, train.window_rows, train.target_rows)
    yield Baseline(name=RECENCY_WEIGHTED_MEAN, predict=_decayed(vectors, decay), fitted={"decay": decay})
    num_lags = min(targets.context_length, LONGEST_WINDOW_OF_A_RIDGE)
    ridges = fit_ridges(vectors, train.target_rows, train.articles, num_lags=num_lags)
    for name, found in ridges.items():
        yield Baseline(
            name=name,
            predict=lambda contexts, found=found: found.predict(vectors, contexts.target_rows),
            fitted={"penalty": found.penalty},
        )
    if targets.has_long_contexts:
        mix = fit_context_mix(vectors, train.first_rows, train.target_rows)
        yield Baseline(
            name=ARTICLE_MEAN_MIX,
            predict=lambda contexts: article_mixes(vectors, contexts.first_rows, contexts.target_rows, mix=mix),
            fitted=asdict(mix),
        )


def _decayed(vectors: NDArray[np.float32], decay: float) -> Callable[[Contexts], NDArray[np.float32]]:
    return lambda contexts: decayed_means(vectors, contexts.window_rows, contexts.target_rows, decay=decay)
