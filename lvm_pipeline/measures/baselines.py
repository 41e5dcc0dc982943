"""The baselines that any model must beat: weighted means of the context, ridge regressions and the linear forecast.

All are fitted on train targets and scored on the same rows as the model. `linear_forecast` and `article_mean_mix` read
as much as the model (the latter is left out if that is at most five concepts); the others read the T concepts right
before the target (the ridges at most five of them).

Shapes: N = concepts in the table, S = targets, B = targets in a block, D = vector width.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.linear_forecast import LinearForecast, fit_linear_forecast
from lvm_pipeline.measures.ridge import RIDGE, RIDGE_RESIDUAL, AffineMap, fit_ridges
from lvm_pipeline.measures.targets import LONGEST_WINDOW_OF_A_RIDGE, Contexts, Targets
from lvm_pipeline.measures.weighted_means import article_mixes, decayed_means, fit_context_mix, fit_decay

COPY_LAST = "copy_last"
CONTEXT_MEAN = "context_mean"
RECENCY_WEIGHTED_MEAN = "recency_weighted_mean"
GLOBAL_MEAN = "global_mean"
ARTICLE_MEAN_MIX = "article_mean_mix"
LINEAR_FORECAST = "linear_forecast"
READ_AS_MUCH_AS_THE_MODEL = frozenset({ARTICLE_MEAN_MIX, LINEAR_FORECAST})

BASELINES: Mapping[str, str] = {
    GLOBAL_MEAN: "mean vector of all train concepts",
    COPY_LAST: "repeats the last concept",
    CONTEXT_MEAN: "mean of the context",
    RECENCY_WEIGHTED_MEAN: "mean of the context with weights decay^k (k = 0: last concept), decay fitted on train",
    RIDGE: "ridge regression on the context",
    RIDGE_RESIDUAL: "ridge regression on the context, shrunk towards its weighted sum",
    ARTICLE_MEAN_MIX: "decayed mean + article weight * mean of the article so far, both fitted on train",
    LINEAR_FORECAST: "decayed means and first concept of the context, weighted per principal direction, plus a ridge",
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fitted predictor: `predict` maps contexts to predictions (B, D); `fitted` holds the fitted values."""

    name: str
    predict: Callable[[Contexts], NDArray[np.float32]]
    fitted: dict[str, float] = field(default_factory=dict)


def fitted_forecast(targets: Targets) -> LinearForecast:
    """Fit the linear forecast on the train targets."""
    train = targets.train
    return fit_linear_forecast(
        targets.vectors,
        train_rows=targets.train_rows,
        first_rows=train.first_rows,
        target_rows=train.target_rows,
        articles=train.articles,
    )


def fitted_ridges(targets: Targets) -> dict[str, AffineMap]:
    """Fit the ridge regressions on the train targets, by name."""
    train = targets.train
    num_lags = min(targets.context_length, LONGEST_WINDOW_OF_A_RIDGE)
    return fit_ridges(targets.vectors, train.target_rows, train.articles, num_lags=num_lags)


def fit_baselines(
    targets: Targets,
    *,
    forecast_of: Callable[[Targets], LinearForecast] = fitted_forecast,
    ridges_of: Callable[[Targets], dict[str, AffineMap]] = fitted_ridges,
) -> Iterator[Baseline]:
    """Fit the baselines on the train targets, one at a time to save memory.

    `forecast_of` and `ridges_of` return the linear forecast and the ridge regressions, from where they are kept.
    """
    vectors, train = targets.vectors, targets.train
    mean = targets.train_mean
    yield Baseline(name=GLOBAL_MEAN, predict=lambda contexts: np.repeat(mean[None], len(contexts), axis=0))
    yield Baseline(name=COPY_LAST, predict=lambda contexts: np.asarray(vectors[contexts.target_rows - 1], np.float32))
    yield Baseline(name=CONTEXT_MEAN, predict=_decayed(vectors, 1.0))
    decay = fit_decay(vectors, train.window_rows, train.target_rows)
    yield Baseline(name=RECENCY_WEIGHTED_MEAN, predict=_decayed(vectors, decay), fitted={"decay": decay})
    for name, found in ridges_of(targets).items():
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
    forecast = forecast_of(targets)
    yield Baseline(
        name=LINEAR_FORECAST,
        predict=lambda contexts: forecast.predict(vectors, contexts.first_rows, contexts.target_rows),
        fitted=dict(zip(("penalty", "low_rank_penalty"), forecast.penalties, strict=True)),
    )


def _decayed(vectors: NDArray[np.float32], decay: float) -> Callable[[Contexts], NDArray[np.float32]]:
    return lambda contexts: decayed_means(vectors, contexts.window_rows, contexts.target_rows, decay=decay)
