"""Find the concepts of a table that are nearest to a predicted vector.

Shapes: D = vector width.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.decoding.faiss_bank import Search, kind_of_bank
from lvm_pipeline.decoding.nearest import ConceptBank, Found, open_bank
from lvm_pipeline.source.encoders.encoder import unit_length

COLUMNS = ("cpe_id", "article_id", "position", "concept_text")


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How a model orders concepts by an output of its own."""

    query: NDArray[np.float32]  # the concepts nearest to it are candidates, (D,)
    # gives the score of each candidate's vector, (M, D) to (M,); the highest comes first
    score: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    num_scored: int  # how many candidates are scored, M; those behind keep the order of the query

    def best(
        self, rows: NDArray[np.int64], vectors: NDArray[np.float32], vector: NDArray[np.float32], count: int
    ) -> Found:
        """Return the `count` best of the rows nearest to the query, (M,), with their cosines to a vector (D,).

        `vectors` are those of the table.
        """
        scored = rows[: self.num_scored]
        if len(scored):
            order = np.argsort(-self.score(vectors[scored]), kind="stable")
            rows = np.concatenate([scored[order], rows[self.num_scored :]])
        rows = rows[:count]
        return Found(rows=rows, cosines=unit_length(vectors[rows]) @ unit_length(vector[None])[0])


@dataclass(frozen=True, kw_only=True)
class ConceptIndex:
    """A concept table to search: its vectors, and the columns that are returned."""

    bank: ConceptBank
    columns: pa.Table

    def nearest(
        self, vector: NDArray[np.float32], count: int, *, exclude: Iterable[int] = (), ranking: Ranking | None = None
    ) -> list[dict[str, Any]]:
        """Return the columns of the concepts nearest to a vector (D,), best first, with `cosine`.

        Rows of `exclude` are left out. The order is that of `ranking`, of a model with a ranking output; None: by
        cosine, ties in table order.
        """
        left_out = [np.array(sorted(exclude), np.int64)]
        query, size = (vector, count) if ranking is None else (ranking.query, max(count, ranking.num_scored))
        (best,) = self.bank.nearest(query[None], size, exclude=left_out)
        if ranking is not None:
            best = ranking.best(best.rows, self.bank.vectors, vector, count)
        found = zip(best.rows.tolist(), best.cosines.tolist(), strict=True)
        return [{**self._concept(row), "cosine": round(cosine, 6)} for row, cosine in found]

    def _concept(self, row: int) -> dict[str, Any]:
        return self.columns.slice(row, 1).to_pylist()[0]  # `pa.array`, for `take`, imports pandas: 0.3 seconds

    def rows_like(self, vector: NDArray[np.float32], text: str | None = None) -> list[int]:
        """Return the rows of the concepts that have this vector (D,) or this text."""
        return self.bank.rows_like(vector, text).tolist()


def open_index(concepts_path: Path, vectors_dir: Path, *, space_id: str, search: Search = "exact") -> ConceptIndex:
    """Open a concept table for searching.

    Raises:
        LvmError: If there is no table, its vectors are of another space, or faiss is not installed.
    """
    bank = open_bank(concepts_path, vectors_dir, space_id=space_id, kind=kind_of_bank(search))
    return ConceptIndex(bank=bank, columns=read_columns(concepts_path, COLUMNS))
