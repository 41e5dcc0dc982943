"""Weighted means of a context: the arithmetic that every model has to beat.

A context is the unbroken run of rows from `first_context_row` up to, not including, `target_row`. All functions work in
blocks of neighbouring targets, one matrix product a block: memory stays small and `vectors` may be memory-mapped. Fits
refuse targets that are not ascending, empty contexts, and having no target (`ValueError`).

Shapes: N = concepts in the table, S = targets, D = vector width, B = targets in a block, R = rows that a block reads.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TARGETS_IN_A_BLOCK = 64
MAX_FITTED_TARGETS = 10_000  # whole articles are left out, evenly, beyond this many: two numbers need no more
USUAL_DECAY = 0.7  # where the search begins
USUAL_ARTICLE_WEIGHT = 0.7
LARGEST_ARTICLE_WEIGHT = 4.0


@dataclass(frozen=True)
class ArticleMix:
    """Weights of the whole-article arithmetic: decayed mean + `article_weight` * mean, both over everything so far."""

    decay: float
    article_weight: float


@dataclass(frozen=True)
class _Block:
    """Neighbouring targets: which (`targets`), the rows they read, and how far back each row lies from each target."""

    targets: slice
    rows: slice
    lags: NDArray[np.int64]  # (B, R); 0 is the last context row
    is_context: NDArray[np.bool_]  # (B, R)

    def decayed_weights(self, decay: float) -> NDArray[np.float32]:
        """Return weights decay^lag that sum to one over each context, shape (B, R); decay 1 is the plain mean."""
        powers = np.power(decay, np.arange(self.lags.max() + 1), dtype=np.float64)
        weights = np.where(self.is_context, powers[np.maximum(self.lags, 0)], 0.0)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def decayed_means(
    vectors: NDArray[np.float32], first_context_rows: NDArray[np.int64], target_rows: NDArray[np.int64], *, decay: float
) -> NDArray[np.float32]:
    """Average each context with weights decay^k, k = 0 for the last concept.

    Args:
        vectors: All vectors, shape (N, D).
        first_context_rows: First row of each context, shape (S,).
        target_rows: Row of each target, ascending, shape (S,).
        decay: 0 copies the last concept, 1 is the plain mean.

    Returns:
        Means, not normalised, shape (S, D).
    """
    means = np.empty((len(target_rows), vectors.shape[1]), np.float32)
    for block in _blocks(first_context_rows, target_rows):
        means[block.targets] = block.decayed_weights(decay) @ np.asarray(vectors[block.rows], np.float32)
    return means


def article_mixes(
    vectors: NDArray[np.float32],
    first_context_rows: NDArray[np.int64],
    target_rows: NDArray[np.int64],
    *,
    mix: ArticleMix,
) -> NDArray[np.float32]:
    """Return decayed mean + article_weight * mean of each context, not normalised, shape (S, D)."""
    mixes = np.empty((len(target_rows), vectors.shape[1]), np.float32)
    for block in _blocks(first_context_rows, target_rows):
        weights = block.decayed_weights(mix.decay) + np.float32(mix.article_weight) * block.decayed_weights(1.0)
        mixes[block.targets] = weights @ np.asarray(vectors[block.rows], np.float32)
    return mixes


def fit_decay(
    vectors: NDArray[np.float32], first_context_rows: NDArray[np.int64], target_rows: NDArray[np.int64]
) -> float:
    """Find the decay, in tenths from 0 to 1, whose decayed mean has the highest mean cosine to the target.

    Tenths are fine enough: the curve is flat at its top, and a figure such as 0.7 can be repeated elsewhere.

    Args:
        vectors: All vectors, shape (N, D).
        first_context_rows: First row of each train context, shape (S,).
        target_rows: Row of each train target, ascending, shape (S,).

    Returns:
        The decay.
    """
    first_context_rows, target_rows = _thinned(first_context_rows, target_rows)

    def score(decay: float) -> float:
        moments = _moments(vectors, first_context_rows, target_rows, decay=decay, with_article_mean=False)
        return float(moments.cosine(article_weight=0.0).mean())

    return _best_tenth(score, start=USUAL_DECAY, upper=1.0)


def fit_article_mix(
    vectors: NDArray[np.float32],
    article_first_rows: NDArray[np.int64],
    article_lengths: NDArray[np.int64],
    *,
    min_context_length: int = 1,
) -> ArticleMix:
    """Find decay and article weight, in tenths, with the highest mean cosine at every position of the train articles.

    Args:
        vectors: All vectors, shape (N, D).
        article_first_rows: First row of each train article, ascending.
        article_lengths: Concepts in each train article.
        min_context_length: Targets with fewer concepts before them are left out.

    Returns:
        The weights; decay in [0, 1], article weight in [0, 4].
    """
    lengths = np.maximum(np.asarray(article_lengths) - min_context_length, 0)
    first_context_rows = np.repeat(article_first_rows, lengths)
    offsets = np.arange(len(first_context_rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return fit_context_mix(vectors, first_context_rows, first_context_rows + offsets + min_context_length)


def fit_context_mix(
    vectors: NDArray[np.float32], first_context_rows: NDArray[np.int64], target_rows: NDArray[np.int64]
) -> ArticleMix:
    """Return the decay and article weight, in tenths, with the highest mean cosine on the given contexts."""
    first_context_rows, target_rows = _thinned(first_context_rows, target_rows)

    best_weights: dict[float, float] = {}

    def score(decay: float) -> float:
        moments = _moments(vectors, first_context_rows, target_rows, decay=decay, with_article_mean=True)

        def score_of_weight(article_weight: float) -> float:
            return float(moments.cosine(article_weight=article_weight).mean())

        best_weights[decay] = _best_tenth(score_of_weight, start=USUAL_ARTICLE_WEIGHT, upper=LARGEST_ARTICLE_WEIGHT)
        return score_of_weight(best_weights[decay])

    decay = _best_tenth(score, start=USUAL_DECAY, upper=1.0)
    return ArticleMix(decay=decay, article_weight=best_weights[decay])


@dataclass(frozen=True)
class _Moments:
    """Dot products of each target y, decayed mean m and plain mean a: all that a cosine needs for any weight of a."""

    yy: NDArray[np.float64]
    my: NDArray[np.float64]
    mm: NDArray[np.float64]
    ay: NDArray[np.float64]
    ma: NDArray[np.float64]
    aa: NDArray[np.float64]

    def cosine(self, *, article_weight: float) -> NDArray[np.float64]:
        """Return the cosine of m + article_weight * a to y, shape (S,); 0 where either is zero."""
        dot = self.my + article_weight * self.ay
        square = (self.mm + 2 * article_weight * self.ma + article_weight**2 * self.aa) * self.yy
        return dot / np.sqrt(np.maximum(square, 1e-24))


def _moments(
    vectors: NDArray[np.float32],
    first_context_rows: NDArray[np.int64],
    target_rows: NDArray[np.int64],
    *,
    decay: float,
    with_article_mean: bool,
) -> _Moments:
    values = np.zeros((6, len(target_rows)))
    for block in _blocks(first_context_rows, target_rows):
        rows = np.asarray(vectors[block.rows], np.float32)
        targets = rows[target_rows[block.targets] - block.rows.start]
        means = block.decayed_weights(decay) @ rows
        values[:3, block.targets] = _dot(targets, targets), _dot(means, targets), _dot(means, means)
        if with_article_mean:
            plain = block.decayed_weights(1.0) @ rows
            values[3:, block.targets] = _dot(plain, targets), _dot(means, plain), _dot(plain, plain)
    return _Moments(*values)


def _blocks(first_context_rows: NDArray[np.int64], target_rows: NDArray[np.int64]) -> Iterator[_Block]:
    for start in range(0, len(target_rows), TARGETS_IN_A_BLOCK):
        part = slice(start, min(start + TARGETS_IN_A_BLOCK, len(target_rows)))
        first_row = int(first_context_rows[part].min())
        rows = slice(first_row, int(target_rows[part].max()) + 1)
        numbers = np.arange(rows.start, rows.stop)
        lags = target_rows[part, None] - 1 - numbers
        is_context = (lags >= 0) & (numbers >= first_context_rows[part, None])
        yield _Block(part, rows, lags, is_context)


def _thinned(
    first_context_rows: NDArray[np.int64], target_rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Check the contexts, then keep every k-th run of 64 neighbouring targets so that at most 10,000 stay."""
    first_context_rows, target_rows = np.asarray(first_context_rows, np.int64), np.asarray(target_rows, np.int64)
    if not len(target_rows):
        raise ValueError("there is no target to fit on")
    if (np.diff(target_rows) < 0).any():
        raise ValueError("target_rows are not ascending")
    if (first_context_rows >= target_rows).any():
        raise ValueError("a context is empty: first_context_row must be below target_row")
    every = -(-len(target_rows) // MAX_FITTED_TARGETS)
    is_kept = (np.arange(len(target_rows)) // TARGETS_IN_A_BLOCK) % every == 0
    return first_context_rows[is_kept], target_rows[is_kept]


def _best_tenth(score: Callable[[float], float], *, start: float, upper: float) -> float:
    """Climb from `start` in steps of a tenth, within 0 to `upper`, to where neither neighbour scores higher."""
    tenths, last, scores = round(start * 10), round(upper * 10), {}

    def score_of(tenth: int) -> float:
        if tenth not in scores:
            scores[tenth] = score(tenth / 10) if 0 <= tenth <= last else -np.inf
        return scores[tenth]

    while (better := max((tenths, tenths - 1, tenths + 1), key=score_of)) != tenths:
        tenths = better
    return tenths / 10


def _dot(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.einsum("sd,sd->s", left, right)
