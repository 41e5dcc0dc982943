"""The concepts of a table that lie nearest to a predicted vector.

Shapes: D = vector width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.decoding.nearest import ConceptBank, open_bank

COLUMNS = ("cpe_id", "article_id", "position", "concept_text")


@dataclass(frozen=True, kw_only=True)
class ConceptIndex:
    """A concept table to look in: its vectors, and what the concepts are called."""

    bank: ConceptBank
    columns: pa.Table

    def nearest(self, vector: NDArray[np.float32], count: int, *, exclude: Iterable[int] = ()) -> list[dict[str, Any]]:
        """Return the `count` concepts of the highest cosine to a vector (D,), best first; ties in table order.

        Rows in `exclude` are left out.
        """
        rows = np.array(sorted(exclude), np.int64)
        (best,) = self.bank.nearest(vector[None], count, exclude=[rows])
        found = self.columns.take(pa.array(best.rows)).to_pylist()
        return [
            {**concept, "cosine": round(float(cosine), 6)} for concept, cosine in zip(found, best.cosines, strict=True)
        ]

    def rows_like(self, vector: NDArray[np.float32], text: str | None = None) -> list[int]:
        """Return the rows of the concepts that have this vector (D,) or this text."""
        return self.bank.rows_like(vector, text).tolist()


def open_index(concepts_path: Path, vectors_dir: Path, *, space_id: str) -> ConceptIndex:
    """Open a concept table for looking up.

    Returns:
        The index. An `LvmError` says so where there is no table, or its vectors are of another space.
    """
    bank = open_bank(concepts_path, vectors_dir, space_id=space_id)
    return ConceptIndex(bank=bank, columns=read_columns(concepts_path, COLUMNS))
