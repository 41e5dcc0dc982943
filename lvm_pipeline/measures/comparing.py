"""Which candidates are at least as close to a prediction as its target, block by block.

A CPU that multiplies bfloat16 natively does so at twice the rate of float32. There, cosines with a large pool are first
taken in bfloat16. What rounding can change is bounded by the lengths of what it took off both vectors; candidates whose
cosine is nearer to that of the target than this bound are compared again in float32. So the answer is that of float32.

Shapes: B = targets in a block, P = candidates in the pool, C = candidates in a part of it, D = vector width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.metrics import Values

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_ROUNDED = (8192, 128)  # candidates and width from which bfloat16 is faster
ROUNDING = 2.0**-8  # largest relative error of a number in bfloat16
SLACK = 1e-4  # covers the errors of float32 sums
DOUBTFUL_SHARE = 1 / 64  # of the candidates; with more, one product in float32 is faster than many pairs
PAIRS_AT_ONCE = 1024
ROWS_AT_ONCE = 8192

Mask = NDArray[np.bool_]


class Compared(Protocol):
    """Cosines of a block of predictions with some candidates."""

    def at_least(self, least: Values, penalties: Values | None = None) -> Mask:
        """Return which cosines, less the penalty (C,) of the candidate, reach the least of their line (B,): (B, C)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """Unit vectors in bfloat16, (n, D), and the length of what rounding took off each, (n,)."""

    values: "Tensor"
    lost: Values


def rounded(directions: Values) -> Rounded:
    """Round unit vectors, (n, D), to bfloat16."""
    import torch

    values = torch.from_numpy(directions).bfloat16()
    lost = [
        np.linalg.norm(
            directions[start : start + ROWS_AT_ONCE] - values[start : start + ROWS_AT_ONCE].float().numpy(), axis=1
        )
        for start in range(0, len(directions), ROWS_AT_ONCE)
    ]
    return Rounded(values=values, lost=np.concatenate(lost))


def pays_to_round(pool: Values) -> bool:
    """Whether cosines with a pool, (P, D), are faster by way of bfloat16 on this machine."""
    if pool.shape[0] < SMALLEST_ROUNDED[0] or pool.shape[1] < SMALLEST_ROUNDED[1]:
        return False
    from lvm_pipeline.architectures._torch_internals import has_avx512_bfloat16

    return has_avx512_bfloat16()


def compared_blocks(
    directions: Values, pool: Values, pool_rounded: Rounded | None, *, block: int
) -> Iterator[tuple[slice, Compared]]:
    """Yield the cosines of unit predictions, (B, D), with so many candidates of the pool, (P, D), at a time.

    `pool_rounded` is the pool in bfloat16, where this pays. Predictions that are all equal are multiplied once.
    """
    if len(directions) > 1 and (directions == directions[0]).all():
        directions = directions[:1]
    own = rounded(directions) if pool_rounded is not None and len(directions) > 1 else None
    for start in range(0, len(pool), block):
        part = slice(start, min(start + block, len(pool)))
        if own is None or pool_rounded is None:
            yield part, _Exact(directions @ pool[part].T)
            continue
        candidates = Rounded(values=pool_rounded.values[part], lost=pool_rounded.lost[part])
        yield part, _ByRounded(directions, own, pool[part], candidates)


@dataclass(frozen=True)
class _Exact:
    """Cosines in float32, (B, C), or one line for all predictions."""

    cosines: Values

    def at_least(self, least: Values, penalties: Values | None = None) -> Mask:
        return (self.cosines if penalties is None else self.cosines - penalties) >= least[:, None]


class _ByRounded:
    """Cosines in bfloat16, and in float32 where these do not decide."""

    def __init__(self, directions: Values, own: Rounded, pool: Values, candidates: Rounded):
        self._directions, self._pool = directions, pool
        self._lost = own.lost + candidates.lost.max()
        self._cosines = own.values @ candidates.values.T

    def at_least(self, least: Values, penalties: Values | None = None) -> Mask:
        largest = np.abs(least) + (0 if penalties is None else np.abs(penalties).max())
        margin = 1.01 * (self._lost + ROUNDING * largest) + SLACK
        surely, maybe = self._reach(least + margin, least - margin, penalties)
        doubtful = np.flatnonzero(surely != maybe)
        lines = doubtful // surely.shape[1]
        is_full = np.bincount(lines, minlength=len(surely)) > DOUBTFUL_SHARE * surely.shape[1]
        if is_full.any():
            exact = _Exact(self._directions[is_full] @ self._pool.T)
            surely[is_full] = exact.at_least(least[is_full], penalties)
            doubtful = doubtful[~is_full[lines]]
        for begin in range(0, len(doubtful), PAIRS_AT_ONCE):
            rows, columns = np.divmod(doubtful[begin : begin + PAIRS_AT_ONCE], surely.shape[1])
            cosines = np.einsum("nd,nd->n", self._directions[rows], self._pool[columns])
            surely[rows, columns] = cosines - (0 if penalties is None else penalties[columns]) >= least[rows]
        return surely

    def _reach(self, high: Values, low: Values, penalties: Values | None) -> tuple[Mask, Mask]:
        """Return which rounded cosines are above the high bound of their line, and which reach the low one."""
        if penalties is not None:
            cosines = self._cosines.float().numpy() - penalties
            return cosines > high[:, None], cosines >= low[:, None]
        import torch

        keys = _keys(self._cosines.view(torch.int16).numpy())
        return keys > _floor_keys(high)[:, None], keys >= _floor_keys(low)[:, None]


def _keys(bits: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return whole numbers in the order of the bfloat16 numbers with these bits: comparing them is faster."""
    return bits ^ ((bits >> 15) & np.int16(0x7FFF))


def _floor_keys(values: Values) -> NDArray[np.int16]:
    """Return the key of the largest bfloat16 number that is not above each value."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    return ((bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))) >> 16).astype(np.int16)
