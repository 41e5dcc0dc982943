"""Confidence intervals of means by a bootstrap over whole articles, since neighbouring rows are alike.

Shapes: S = targets, A = articles, R = resamples, K = predictors.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 4000
LEVEL = 0.95
FEWEST_ARTICLES = 2
ROUNDING = 1e-6
RESAMPLES_AT_A_TIME = 500
MOST_CACHED_ARTICLES = 5000  # whose draws take 40 MB

Drawn = NDArray[np.integer]  # how often each article is drawn in each of some resamples


@dataclass(frozen=True)
class Interval:
    """A mean over targets with its interval (95 % unless stated); no bounds with fewer than two articles."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_above_zero(self) -> bool:
        """Whether the lower bound is above zero by more than float32 rounding."""
        return self.low is not None and self.low > ROUNDING

    @property
    def is_below_zero(self) -> bool:
        """Whether the upper bound is below zero by more than float32 rounding."""
        return self.high is not None and self.high < -ROUNDING

    def as_json(self) -> dict[str, float | None]:
        return asdict(self)


def article_interval(values: ArrayLike, articles: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean of values (S,) and its percentile interval under resampling of articles, any labels (S,).

    Equal input and seed give equal output.

    Raises:
        ValueError: If there are no values, or not one article for each.
    """
    values, articles = np.asarray(values, np.float64), np.asarray(articles)
    if values.ndim != 1 or values.shape != articles.shape or not len(values):
        raise ValueError(f"need one value and one article for each target, got {values.shape} and {articles.shape}")
    return _percentile_interval(float(values.mean()), *article_sums(values, articles), seed=seed)


def _percentile_interval(mean: float, sums: NDArray[np.float64], counts: NDArray[np.float64], *, seed: int) -> Interval:
    if len(sums) < FEWEST_ARTICLES:
        return Interval(mean, None, None)
    means = _resampled_means(sums, counts, _seeded_draws(len(sums), seed))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def paired_gain(values: ArrayLike, base_values: ArrayLike, articles: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean difference of two predictors on the same targets, with its interval by articles."""
    return article_interval(np.asarray(values, np.float64) - np.asarray(base_values, np.float64), articles, seed=seed)


def article_difference(
    values: ArrayLike,
    articles: ArrayLike,
    other_values: ArrayLike,
    other_articles: ArrayLike,
    *,
    level: float = LEVEL,
) -> Interval:
    """Return the mean of values (S,) minus that of others, on other articles, with its interval by articles of both."""
    rng = np.random.default_rng(0)
    groups = [article_sums(values, articles), article_sums(other_values, other_articles)]
    means = [float(sums.sum() / counts.sum()) for sums, counts in groups]
    if min(len(sums) for sums, _ in groups) < FEWEST_ARTICLES:
        return Interval(means[0] - means[1], None, None)
    drawn = [_resampled_means(sums, counts, _draws(len(sums), rng)) for sums, counts in groups]
    low, high = np.quantile(drawn[0] - drawn[1], [(1 - level) / 2, (1 + level) / 2])
    return Interval(means[0] - means[1], float(low), float(high))


def article_sums(values: ArrayLike, articles: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of the values in each article and the number of targets in it, shape (A,) each."""
    _, codes = np.unique(np.asarray(articles), return_inverse=True)
    sums = np.bincount(codes, np.asarray(values, np.float64))
    return sums.astype(np.float64), np.bincount(codes).astype(np.float64)


def simultaneous_intervals(sums: ArrayLike, counts: ArrayLike, *, seed: int = 0) -> list[Interval]:
    """Return the mean of each of K predictors with intervals that hold for all of them at once.

    The chance that any of the K intervals misses its true mean is 5 %, so the best of K predictors may be picked first
    and its interval read afterwards. The width comes from the largest studentised deviation among the K predictors
    under resampling of whole articles (bootstrap-t of the maximum), which is narrower than Bonferroni where predictors
    resemble each other. One predictor alone gets its plain interval; too few articles give no bounds.

    `sums` (K, A) are the sums of each predictor's values in each article, `counts` (A,) the targets of each article.

    Raises:
        ValueError: If the shapes do not fit, or there is no predictor.
    """
    sums, counts = np.atleast_2d(np.asarray(sums, np.float64)), np.asarray(counts, np.float64)
    if sums.shape[1:] != counts.shape or not sums.size:
        raise ValueError(f"need one sum for each predictor and article, got {sums.shape} and {counts.shape}")
    means = sums.sum(axis=1) / counts.sum()
    if len(sums) == 1:
        return [_percentile_interval(float(means[0]), sums[0], counts, seed=seed)]
    if len(counts) < FEWEST_ARTICLES:
        return [Interval(float(mean), None, None) for mean in means]
    largest = np.concatenate([*_largest_deviations(sums, counts, means, seed=seed)])
    width = float(np.quantile(largest, LEVEL, method="higher"))
    if not np.isfinite(width):
        return [Interval(float(mean), None, None) for mean in means]
    errors = _standard_errors(
        sums**2 @ np.ones(len(counts)), sums @ counts, np.sum(counts**2), means, counts.sum(), len(counts)
    )
    return [
        Interval(float(mean), float(mean - width * error), float(mean + width * error))
        for mean, error in zip(means, errors, strict=True)
    ]


def _largest_deviations(
    sums: NDArray[np.float64], counts: NDArray[np.float64], means: NDArray[np.float64], *, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield the largest studentised deviation among the predictors for each resample, (R,) in all."""
    squares, products = sums.T**2, (sums * counts).T
    for times_drawn in _seeded_draws(len(counts), seed):
        totals = (times_drawn @ counts)[:, None]
        resampled = (times_drawn @ sums.T) / totals
        errors = _standard_errors(
            times_drawn @ squares,
            times_drawn @ products,
            (times_drawn @ counts**2)[:, None],
            resampled,
            totals,
            len(counts),
        )
        moved = np.abs(resampled - means)
        with np.errstate(divide="ignore", invalid="ignore"):
            deviations = np.where(moved > 1e-12, moved / errors, 0.0)
        yield deviations.max(axis=1)


def _standard_errors(
    squares: NDArray[np.float64],
    products: NDArray[np.float64],
    count_squares: Any,
    means: NDArray[np.float64],
    totals: Any,
    num_articles: int,
) -> NDArray[np.float64]:
    """Return the standard error of a ratio of sums, from the second moments of sums and counts over articles."""
    residuals = squares - 2 * means * products + means**2 * count_squares
    return np.sqrt(np.maximum(residuals, 0) * num_articles / (num_articles - 1)) / totals


def _seeded_draws(num_articles: int, seed: int) -> Iterable[Drawn]:
    """Return the draws that a seed gives; a report asks for the same ones a dozen times."""
    if num_articles > MOST_CACHED_ARTICLES:
        return _draws(num_articles, np.random.default_rng(seed))
    return _cached_draws(num_articles, seed, NUM_RESAMPLES)


@lru_cache(maxsize=2)
def _cached_draws(num_articles: int, seed: int, num_resamples: int) -> tuple[Drawn, ...]:
    return tuple(drawn.astype(np.uint16) for drawn in _draws(num_articles, np.random.default_rng(seed)))


def _draws(num_articles: int, rng: np.random.Generator) -> Iterator[Drawn]:
    """Yield how often each article is drawn, (R, A) in all."""
    chances = np.full(num_articles, 1 / num_articles)
    for start in range(0, NUM_RESAMPLES, RESAMPLES_AT_A_TIME):
        yield rng.multinomial(num_articles, chances, size=min(RESAMPLES_AT_A_TIME, NUM_RESAMPLES - start))


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], draws: Iterable[Drawn]
) -> NDArray[np.float64]:
    """Return the mean over the targets of the articles drawn, each time, shape (R,)."""
    return np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in draws])
