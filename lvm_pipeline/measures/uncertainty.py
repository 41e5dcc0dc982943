"""How sure is a mean? Intervals by resampling whole articles, never rows: neighbouring rows are alike.

Shapes: S = targets, A = articles, R = resamples.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 4000
LEVEL = 0.95
FEWEST_ARTICLES = 2
RESAMPLES_AT_A_TIME = 500


@dataclass(frozen=True)
class Interval:
    """A mean over targets with its 95 % interval; no bounds where there are fewer than two articles to resample."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_above_zero(self) -> bool:
        """Whether the lower bound is above zero."""
        return self.low is not None and self.low > 0

    def as_json(self) -> dict[str, float | None]:
        """Return the three numbers by name."""
        return asdict(self)


def article_interval(values: ArrayLike, articles: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean of values over targets and its percentile interval under resampling of articles.

    Args:
        values: One for each target, shape (S,).
        articles: Article of each target, shape (S,); any labels.
        seed: Of the resampling; equal input gives equal output.

    Returns:
        Mean and interval.

    Raises:
        ValueError: If there are no values, or not one article for each.
    """
    values, articles = np.asarray(values, np.float64), np.asarray(articles)
    if values.ndim != 1 or values.shape != articles.shape or not len(values):
        raise ValueError(f"need one value and one article for each target, got {values.shape} and {articles.shape}")
    _, codes = np.unique(articles, return_inverse=True)
    sums, counts = np.bincount(codes, values).astype(np.float64), np.bincount(codes).astype(np.float64)
    if len(sums) < FEWEST_ARTICLES:
        return Interval(float(values.mean()), None, None)
    means = _resampled_means(sums, counts, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_gain(values: ArrayLike, base_values: ArrayLike, articles: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean difference of two predictors on the same targets, with its interval by articles."""
    return article_interval(np.asarray(values, np.float64) - np.asarray(base_values, np.float64), articles, seed=seed)


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw A articles with replacement R times; return the mean over targets each time, shape (R,)."""
    chances = np.full(len(sums), 1 / len(sums))
    means = []
    for start in range(0, NUM_RESAMPLES, RESAMPLES_AT_A_TIME):
        size = min(RESAMPLES_AT_A_TIME, NUM_RESAMPLES - start)
        times_drawn = rng.multinomial(len(sums), chances, size=size)
        means.append((times_drawn @ sums) / (times_drawn @ counts))
    return np.concatenate(means)
