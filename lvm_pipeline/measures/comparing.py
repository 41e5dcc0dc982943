"""Which candidates are at least as close to a prediction as its target, block by block.

Most candidates are far from a prediction, and a part of the product is enough to see it. Vectors are rotated into the
principal directions of the pool. The cosine is the product in the leading directions plus that in the rest, which is at
most the product of the two lengths there (Cauchy-Schwarz). Candidates whose cosine can reach that of the target by this
bound are compared by the whole product. So the answer is that of the whole product.

Shapes: B = targets in a block, P = candidates in the pool, C = candidates in a part of it, D = vector width,
K = leading directions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.metrics import Values

SMALLEST_POOL = (4096, 256)  # candidates and width from which the bound is worth its rotation
LEADING_STEP = 64  # K is a multiple of it
ROTATED_BY = 8192  # candidates whose principal directions are taken
TRIED_LINES, TRIED_CANDIDATES = 64, 2048  # to estimate what each K costs
COST_OF_A_DOUBT = 8  # cost of comparing doubtful candidates again, relative to their share
SLACK = 1e-4  # covers the errors of float32 sums
SMALLEST_REST = 1e-6  # added to the square of the length in the rest, which is a difference of float32 numbers
DOUBTFUL_SHARE = 1 / 32  # of the candidates; lines with more are compared with all of them
LINES_AT_ONCE = 32  # neighbours, whose doubtful candidates are much the same

Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]
Thresholds = Sequence[tuple[Values, Values | None]]


@dataclass(frozen=True)
class Compared:
    """Some lines (n,) and some candidates (m,), both ascending, and for each threshold which cosines reach it, (n, m).

    Candidates that are not listed for a line do not reach it.
    """

    lines: Indices
    candidates: Indices
    reaches: list[Mask]


@dataclass(frozen=True, kw_only=True)
class Leading:
    """A pool of unit vectors in its leading directions.

    `pool` is (P, K + 1): the last number of a candidate is its length in the other directions. `basis` is (D, K).
    """

    basis: Values
    pool: Values


def leading(pool: Values) -> Leading | None:
    """Rotate a pool of unit vectors, (P, D), in reading order; None if it is small, or too many directions matter."""
    num, dim = pool.shape
    if num < SMALLEST_POOL[0] or dim < SMALLEST_POOL[1]:
        return None
    sample = pool[:: -(-num // ROTATED_BY)]
    basis = np.linalg.eigh(sample.T @ sample)[1][:, ::-1]
    widths = range(LEADING_STEP, dim // 2 + 1, LEADING_STEP)
    costs = {width: _cost(pool, np.ascontiguousarray(basis[:, :width])) for width in widths}
    width = min(costs, key=lambda each: costs[each])
    if costs[width] >= 1:
        return None
    basis = np.ascontiguousarray(basis[:, :width])
    return Leading(basis=basis, pool=_in_leading(pool, basis))


def _cost(pool: Values, basis: Values) -> float:
    """Estimate the cost relative to the whole product, for predictions that repeat the last concept.

    Where candidates are doubtful, the whole product follows.
    """
    lasts = np.linspace(0, len(pool) - 2, TRIED_LINES).astype(np.int64)
    least = np.einsum("nd,nd->n", pool[lasts], pool[lasts + 1]) - SLACK
    others = _in_leading(pool[:: -(-len(pool) // TRIED_CANDIDATES)], basis)
    shares = (_in_leading(pool[lasts], basis) @ others.T >= least[:, None]).mean(axis=1)
    is_full = shares > DOUBTFUL_SHARE
    return basis.shape[1] / len(basis) + float(np.where(is_full, 1, COST_OF_A_DOUBT * shares).mean())


def _in_leading(directions: Values, basis: Values) -> Values:
    rotated = np.empty((len(directions), basis.shape[1] + 1), np.float32)
    np.matmul(directions, basis, out=rotated[:, :-1])
    squares = np.einsum("nk,nk->n", rotated[:, :-1], rotated[:, :-1])
    rotated[:, -1] = np.sqrt(np.maximum(1 - squares, 0) + SMALLEST_REST)
    return rotated


def compared(
    directions: Values, pool: Values, pool_leading: Leading | None, thresholds: Thresholds, *, block: int
) -> Iterator[Compared]:
    """Compare unit predictions, (B, D), with a pool, (P, D), block by block of candidates.

    Args:
        directions: The predictions; if all are equal, they are multiplied once.
        pool: The candidates, of unit length.
        pool_leading: The pool in its leading directions, if that is faster.
        thresholds: The least cosine of each line (B,), and the penalties (P,) that are first subtracted from the
            cosines, or None.
        block: Number of candidates in a block.
    """
    if len(directions) > 1 and (directions == directions[0]).all():
        directions = directions[:1]
    lines = np.arange(len(thresholds[0][0]))
    own = None if pool_leading is None or len(directions) == 1 else _in_leading(directions, pool_leading.basis)
    for start in range(0, len(pool), block):
        columns = np.arange(start, min(start + block, len(pool)))
        part = slice(start, start + len(columns))
        if own is None or pool_leading is None:
            yield Compared(lines, columns, _reached(directions @ pool[part].T, thresholds, lines, part))
            continue
        maybe = _possible(own @ pool_leading.pool[part].T, thresholds, part)
        for chosen, bits in _worth_comparing(maybe):
            found = np.flatnonzero(np.unpackbits(bits, count=len(columns)))
            if len(found):
                cosines = directions[chosen] @ (pool[part] if len(found) == len(columns) else pool[start + found]).T
                yield Compared(chosen, start + found, _reached(cosines, thresholds, chosen, start + found))


def _possible(at_most: Values, thresholds: Thresholds, part: slice) -> NDArray[np.uint8]:
    """Return as bits, (B, C / 8), which cosines may reach a threshold, given upper bounds of the cosines."""
    bits = [
        np.packbits(_less(at_most, penalties, part) >= (least - SLACK)[:, None], axis=1)
        for least, penalties in thresholds
    ]
    return np.bitwise_or.reduce(bits)


def _worth_comparing(maybe: NDArray[np.uint8]) -> Iterator[tuple[Indices, NDArray[np.uint8]]]:
    """Yield lines to compare with the same candidates, and the bits of these, (C / 8,)."""
    is_full = np.bitwise_count(maybe).sum(axis=1, dtype=np.int64) > DOUBTFUL_SHARE * 8 * maybe.shape[1]
    if is_full.any():
        yield np.flatnonzero(is_full), np.full(maybe.shape[1], 255, np.uint8)
    others = np.flatnonzero(~is_full)
    for begin in range(0, len(others), LINES_AT_ONCE):
        lines = others[begin : begin + LINES_AT_ONCE]
        yield lines, np.bitwise_or.reduce(maybe[lines])


def _reached(cosines: Values, thresholds: Thresholds, lines: Indices, columns: slice | Indices) -> list[Mask]:
    return [_less(cosines, penalties, columns) >= least[lines, None] for least, penalties in thresholds]


def _less(cosines: Values, penalties: Values | None, columns: slice | Indices) -> Values:
    return cosines if penalties is None else cosines - penalties[columns]
