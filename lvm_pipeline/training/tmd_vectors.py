"""TMD codes as the 16 numbers that a model with a condition reads.

A code is the bits of its packed integer as -1 and 1; code zero (0, 0, 0) marks a failed assignment and is 16 zeros.
Two packings are in use: `11-6-0` is `domain << 11 | task << 6 | modifier`, `12-7-1` is the same shifted by one bit.

Shapes: N = concepts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.errors import LvmError

CONDITION_DIM = 16  # width of a TMD vector
CODES = ("domain", "task", "modifier")
Packing = Literal["11-6-0", "12-7-1"]
PACKINGS: Mapping[str, tuple[int, ...]] = {name: tuple(map(int, name.split("-"))) for name in get_args(Packing)}


def tmd_bits(domain: ArrayLike, task: ArrayLike, modifier: ArrayLike, *, packing: Packing) -> NDArray[np.float32]:
    """Return the bits of packed codes, the highest first, as -1 and 1, shape (N, 16); zeros for code zero."""
    parts = [np.asarray(each, np.int64) for each in (domain, task, modifier)]
    packed = np.bitwise_or.reduce([part << shift for part, shift in zip(parts, PACKINGS[packing], strict=True)])
    bits = packed[:, None] >> np.arange(CONDITION_DIM)[::-1] & 1
    return np.where(packed[:, None] == 0, 0, 2 * bits - 1).astype(np.float32)


def read_tmd_codes(concepts_path: Path, *, packing: Packing) -> NDArray[np.float32] | None:
    """Read the TMD codes of every concept as 16 numbers, (N, 16), zeros where they are null; None if all are."""
    table = read_columns(concepts_path, CODES)
    codes = [np.nan_to_num(table[name].to_numpy(), nan=0).astype(np.int64) for name in CODES]
    return tmd_bits(*codes, packing=packing) if np.any(codes) else None


def read_tmd_vectors(concepts_path: Path) -> NDArray[np.float32] | None:
    """Read the TMD vector of every concept, (N, 16), zeros where it is null; None if every one is null.

    Raises:
        LvmError: If the table cannot be read, or a TMD vector has another width or a number that is not finite.
    """
    column = read_columns(concepts_path, ["tmd_dense"])["tmd_dense"].combine_chunks()
    has_vector, given = np.asarray(column.is_valid()), column.drop_null()
    if not len(given):
        return None
    if (np.asarray(given.value_lengths()) != CONDITION_DIM).any():
        raise LvmError(f"{concepts_path} has TMD vectors that are not {CONDITION_DIM} numbers; load them again.")
    found = np.zeros((len(column), CONDITION_DIM), np.float32)
    found[has_vector] = given.flatten().to_numpy(zero_copy_only=False).reshape(-1, CONDITION_DIM)
    if not np.isfinite(found).all():
        raise LvmError(f"{concepts_path} has TMD vectors with numbers that are not finite; load them again.")
    return found
