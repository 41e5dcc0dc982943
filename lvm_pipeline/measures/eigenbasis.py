"""Contexts in the eigenbasis of the train covariance, summarised by decayed means.

Shapes: N = concepts in the table, S = targets, B = targets in a block, D = vector width, K = decays.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.samples import TARGETS_IN_A_RUN

ROWS_IN_A_BLOCK = 8192
MAX_ROWS_OF_BASIS = 65_536

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


def eigenbasis(vectors: Vectors, rows: Rows) -> Vectors:
    """Return the eigenvectors of the covariance of some rows in columns, by descending eigenvalue, (D, D).

    At most 65,536 of the rows are used, evenly spaced.
    """
    dim, rows = vectors.shape[1], rows[:: -(-len(rows) // MAX_ROWS_OF_BASIS)]
    products, total = np.zeros((dim, dim)), np.zeros(dim)
    for start in range(0, len(rows), ROWS_IN_A_BLOCK):
        block = np.asarray(vectors[rows[start : start + ROWS_IN_A_BLOCK]], np.float32)
        products += block.T @ block
        total += block.sum(axis=0, dtype=np.float64)
    covariance = products / len(rows) - np.outer(total, total) / len(rows) ** 2
    return np.ascontiguousarray(np.linalg.eigh(covariance)[1][:, ::-1], np.float32)


@dataclass(frozen=True, kw_only=True)
class Rotated:
    """Some rows of the table in the eigenbasis."""

    vectors: Vectors  # (n, D)
    rows: Rows  # which rows these are, ascending, (n,)

    def indices(self, rows: Rows) -> Rows:
        """Return the indices in `vectors` of rows of the table, all of them rotated."""
        return np.searchsorted(self.rows, rows)


def rotated_spans(vectors: Vectors, first_rows: Rows, target_rows: Rows, basis: Vectors) -> Rotated:
    """Rotate every row that is in a context or is a target, each of them once."""
    rows = np.union1d(_compact(first_rows, target_rows)[0], target_rows)
    rotated = np.empty((len(rows), len(basis)), np.float32)
    for start in range(0, len(rows), ROWS_IN_A_BLOCK):
        part = slice(start, start + ROWS_IN_A_BLOCK)
        np.matmul(np.asarray(vectors[rows[part]], np.float32), basis, out=rotated[part])
    return Rotated(vectors=rotated, rows=rows)


def context_summaries(
    vectors: Vectors, first_rows: Rows, target_rows: Rows, basis: Vectors | None, decays: Vectors
) -> Vectors:
    """Return the decayed means of each context and its first concept, in the eigenbasis, (K + 1, B, D).

    If `basis` is None, `vectors` are in the eigenbasis already.
    """
    rows, firsts, ends = _compact(first_rows, target_rows)
    rotated = np.asarray(vectors[rows], np.float32)
    rotated = rotated if basis is None else rotated @ basis
    summaries = np.empty((len(decays) + 1, len(target_rows), rotated.shape[1]), np.float32)
    summaries[-1] = rotated[firsts]
    powers = decays[:, None] ** np.arange((ends - firsts).max(), dtype=np.float32)
    totals = np.cumsum(powers, axis=1, dtype=np.float64)
    for start in range(0, len(firsts), TARGETS_IN_A_RUN):
        part = slice(start, start + TARGETS_IN_A_RUN)
        first, end = firsts[part, None], ends[part, None]
        read = np.arange(first.min(), end.max())
        lags = end - 1 - read
        shares = np.where((lags >= 0) & (read >= first), powers[:, np.clip(lags, 0, powers.shape[1] - 1)], 0)
        shares /= totals[:, end - first - 1]
        summaries[:-1, part] = shares.astype(np.float32) @ rotated[read[0] : read[-1] + 1]
    return summaries


def _compact(first_rows: Rows, target_rows: Rows) -> tuple[Rows, Rows, Rows]:
    """Return the rows that some context reads, and where among them each context begins and ends."""
    base = first_rows.min()
    changes = np.zeros(target_rows.max() - base + 1, np.int64)
    np.add.at(changes, first_rows - base, 1)
    np.add.at(changes, target_rows - base, -1)
    is_read = np.cumsum(changes) > 0
    firsts = (np.cumsum(is_read) - 1)[first_rows - base]
    return np.flatnonzero(is_read) + base, firsts, firsts + target_rows - first_rows
