"""Weighted means of a context: the closed-form predictors that every model has to beat.

A context is the unbroken run of rows from `first_context_row` up to, not including, `target_row`; `vectors` may be
memory-mapped. Fits raise ValueError if targets are not ascending, a context is empty, or there is no target.

Shapes: N = concepts in the table, S = targets, D = vector width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.samples import TARGETS_IN_A_RUN
from lvm_pipeline.measures.threads import in_threads

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]

MAX_TARGETS_OF_A_DECAY = 10_000  # enough to fit two numbers; beyond it, runs of targets are left out evenly
MOST_UNREAD_ROWS = 64  # between two contexts of one product, which multiplies them by zero
USUAL_DECAY = 0.7  # where the searches begin
USUAL_ARTICLE_WEIGHT = 0.7
LARGEST_ARTICLE_WEIGHT = 4.0


@dataclass(frozen=True)
class ArticleMix:
    """Weights of decayed mean + `article_weight` * mean, both over the whole article before the target."""

    decay: float
    article_weight: float


def decayed_means(vectors: Vectors, first_context_rows: Rows, target_rows: Rows, *, decay: float) -> Vectors:
    """Average each context with weights decay^k, k = 0 for the last concept; not normalised, (S, D).

    Decay 0 copies the last concept, 1 is the plain mean. First rows and ascending target rows are (S,).
    """
    means = np.empty((len(target_rows), vectors.shape[1]), np.float32)

    def average(run: slice) -> None:  # by one matrix product, so that memory stays small
        firsts, targets = first_context_rows[run, None], target_rows[run, None]
        rows = np.arange(firsts.min(), targets.max())
        lags = targets - 1 - rows
        powers = np.power(decay, np.arange(lags.max() + 1), dtype=np.float64)
        weights = np.where((lags >= 0) & (rows >= firsts), powers[np.maximum(lags, 0)], 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        block = np.asarray(vectors[rows[0] : rows[-1] + 1], np.float32)
        means[run] = weights.astype(np.float32) @ block

    in_threads(average, _runs(first_context_rows, target_rows))
    return means


def _runs(first_context_rows: Rows, target_rows: Rows) -> list[slice]:
    """Cut the targets into runs of at most 64, and where many rows between two contexts are read by neither."""
    num_unread = np.asarray(first_context_rows[1:], np.int64) - target_rows[:-1]
    cuts = np.flatnonzero(num_unread > MOST_UNREAD_ROWS) + 1
    begins = np.union1d(np.arange(0, len(target_rows), TARGETS_IN_A_RUN), cuts).tolist()
    return [slice(begin, end) for begin, end in pairwise([*begins, len(target_rows)])]


def article_mixes(vectors: Vectors, first_context_rows: Rows, target_rows: Rows, *, mix: ArticleMix) -> Vectors:
    """Return decayed mean + article_weight * mean of each context, not normalised, shape (S, D)."""
    decayed = decayed_means(vectors, first_context_rows, target_rows, decay=mix.decay)
    plain = decayed_means(vectors, first_context_rows, target_rows, decay=1.0)
    return np.add(decayed, np.float32(mix.article_weight) * plain, dtype=np.float32)


def fit_decay(vectors: Vectors, first_context_rows: Rows, target_rows: Rows) -> float:
    """Find the decay, in tenths from 0 to 1, whose decayed mean has the highest mean cosine to the target.

    Tenths are fine enough: the curve is flat at its top.
    """
    firsts, rows = _thinned(first_context_rows, target_rows)
    targets = np.asarray(vectors[rows], np.float32)

    def score(tenth: int) -> float:
        means = decayed_means(vectors, firsts, rows, decay=tenth / 10)
        return float(_cosines(_dot(means, targets), _dot(means, means), _dot(targets, targets)).mean())

    return best_step(score, start=round(10 * USUAL_DECAY), last=10) / 10


def fit_context_mix(vectors: Vectors, first_context_rows: Rows, target_rows: Rows) -> ArticleMix:
    """Find decay (0 to 1) and article weight (0 to 4), in tenths, with the highest mean cosine on the contexts."""
    firsts, rows = _thinned(first_context_rows, target_rows)
    targets = np.asarray(vectors[rows], np.float32)
    plain = decayed_means(vectors, firsts, rows, decay=1.0)
    yy, ay, aa = _dot(targets, targets), _dot(plain, targets), _dot(plain, plain)
    weights: dict[int, int] = {}

    def score(tenth: int) -> float:
        means = decayed_means(vectors, firsts, rows, decay=tenth / 10)
        my, mm, ma = _dot(means, targets), _dot(means, means), _dot(means, plain)

        def score_of_weight(weight_tenth: int) -> float:
            weight = weight_tenth / 10
            return float(_cosines(my + weight * ay, mm + 2 * weight * ma + weight**2 * aa, yy).mean())

        weights[tenth] = best_step(
            score_of_weight, start=round(10 * USUAL_ARTICLE_WEIGHT), last=round(10 * LARGEST_ARTICLE_WEIGHT)
        )
        return score_of_weight(weights[tenth])

    decay = best_step(score, start=round(10 * USUAL_DECAY), last=10)
    return ArticleMix(decay=decay / 10, article_weight=weights[decay] / 10)


def best_step(score: Callable[[int], float], *, start: int, last: int) -> int:
    """Climb from `start`, one step at a time within 0 to `last`, to where neither neighbour scores higher."""
    scores: dict[int, float] = {}

    def score_of(step: int) -> float:
        if step not in scores:
            scores[step] = score(step) if 0 <= step <= last else -np.inf
        return scores[step]

    best = start
    while (better := max((best, best - 1, best + 1), key=score_of)) != best:
        best = better
    return best


def _thinned(first_context_rows: Rows, target_rows: Rows) -> tuple[Rows, Rows]:
    """Check the contexts, then keep every k-th run of 64 neighbouring targets so that at most 10,000 stay."""
    first_context_rows, target_rows = np.asarray(first_context_rows, np.int64), np.asarray(target_rows, np.int64)
    if not len(target_rows):
        raise ValueError("there is no target to fit on")
    if (np.diff(target_rows) < 0).any():
        raise ValueError("target_rows are not ascending")
    if (first_context_rows >= target_rows).any():
        raise ValueError("a context is empty: first_context_row must be below target_row")
    every = -(-len(target_rows) // MAX_TARGETS_OF_A_DECAY)
    is_kept = (np.arange(len(target_rows)) // TARGETS_IN_A_RUN) % every == 0
    return first_context_rows[is_kept], target_rows[is_kept]


def _cosines(
    dot: NDArray[np.float64], square: NDArray[np.float64], target_square: NDArray[np.float64]
) -> NDArray[np.float64]:
    return dot / np.sqrt(np.maximum(square * target_square, 1e-24))


def _dot(left: Vectors, right: Vectors) -> NDArray[np.float64]:
    return np.einsum("sd,sd->s", left, right).astype(np.float64)
