"""The nearest concept of a table: a decoder that needs no training and is always available.

The search is exact: cosines to all candidates, block by block; `faiss_bank` searches larger tables approximately.

Shapes: N = concepts in the table, B = vectors, D = vector width, k = concepts asked for.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import memory_mapped_vectors, read_columns, texts_at
from lvm_pipeline.decoding._contract import Rows, refuse_other_shape
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.encoder import unit_length

BLOCK = 8_192  # candidates compared at once
SMALLEST_LENGTH = np.float32(1e-12)
SAME_VECTOR = 0.9999  # a concept whose cosine to a vector is at least this counts as the same concept


@dataclass(frozen=True, kw_only=True)
class Found:
    """Concepts found for one vector, best first: their rows and cosines, both of shape (k,)."""

    rows: Rows
    cosines: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ConceptBank:
    """Concepts that can be found by their vectors."""

    space_id: str  # space of the vectors
    vectors: NDArray[np.float32]  # vectors of the whole table, may be memory-mapped, shape (N, D)
    texts: pa.ChunkedArray  # text of each concept, N of them
    rows: Rows | None = None  # the candidates, ascending; None: all rows

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """Length of each candidate's vector."""
        found = [np.linalg.norm(block, axis=1) for _, block in self._blocks()]
        return np.maximum(np.concatenate(found), SMALLEST_LENGTH) if found else np.empty(0, np.float32)

    def prepare(self) -> None:
        """Make what every search needs, so that the first one does not wait for it."""
        _ = self.lengths

    @property
    def how(self) -> str:
        """How it is searched."""
        return "exact"

    @property
    def num_candidates(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)

    def nearest(
        self, vectors: NDArray[np.float32], count: int = 1, *, exclude: Sequence[Rows] | None = None
    ) -> list[Found]:
        """Find the `count` candidates of the highest cosine to each vector (B, D), or all; ties in table order.

        `exclude` are for each vector the rows that are not candidates.
        """
        refuse_other_shape("nearest", vectors, self.vectors.shape[1])
        directions = unit_length(vectors)
        best = [Found(rows=np.empty(0, np.int64), cosines=np.empty(0, np.float32)) for _ in directions]
        for start, block in self._blocks():
            rows = self._rows_of(start, len(block))
            cosines = (directions @ block.T) / self.lengths[start : start + len(block)]
            for index, found in enumerate(best):
                line = cosines[index]
                if exclude is not None:
                    line[np.isin(rows, exclude[index])] = -np.inf
                best[index] = _best_of(found, rows, line, count)
        return best

    def rows_like(self, vector: NDArray[np.float32], text: str | None = None) -> Rows:
        """Return the rows of the concepts that have this vector (D,) or this text."""
        direction = unit_length(vector[None])[0]
        like = [
            self._rows_of(start, len(block))[
                (block @ direction) >= SAME_VECTOR * self.lengths[start : start + len(block)]
            ]
            for start, block in self._blocks()
        ]
        of_text = self._rows_by_text.get(text, []) if text is not None else []
        return np.union1d(np.concatenate(like) if like else [], of_text).astype(np.int64)

    def texts_of(self, rows: Rows) -> list[str]:
        return texts_at(self.texts, rows)

    @cached_property
    def _rows_by_text(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(self.texts.to_pylist()):
            rows.setdefault(text, []).append(row)
        return rows

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, self.num_candidates, BLOCK):
            yield start, self.vectors[self._chosen(start)]

    def _chosen(self, start: int) -> slice | Rows:
        return slice(start, start + BLOCK) if self.rows is None else self.rows[start : start + BLOCK]

    def _rows_of(self, start: int, num: int) -> Rows:
        return np.arange(start, start + num) if self.rows is None else self.rows[start : start + num]


@dataclass(frozen=True, kw_only=True)
class NearestConcept:
    """Answers with the text of the nearest concept of a bank."""

    bank: ConceptBank
    name: str = "nearest"

    @property
    def space_id(self) -> str:
        return self.bank.space_id

    @property
    def identity(self) -> str:
        """Changes with the candidates; the table they are of has a fingerprint."""
        rows = "all" if self.bank.rows is None else hashlib.sha256(self.bank.rows.tobytes()).hexdigest()
        return f"{self.name} {self.space_id} {rows}"

    def decode(self, vectors: NDArray[np.float32], *, exclude: Sequence[Rows] | None = None) -> list[str]:
        """Return the text of the nearest concept that is not excluded; an empty text where every concept is."""
        found = self.bank.nearest(vectors, exclude=exclude)
        texts = iter(self.bank.texts_of(np.concatenate([each.rows for each in found]) if found else np.empty(0, int)))
        return [next(texts) if len(each.rows) else "" for each in found]


def open_bank(
    concepts_path: Path,
    vectors_dir: Path,
    *,
    space_id: str,
    rows: Rows | None = None,
    kind: type[ConceptBank] = ConceptBank,
) -> ConceptBank:
    """Open a concept table as a bank of a kind; `rows` are the candidates, ascending, None for all.

    Raises:
        LvmError: If there is no table, or its vectors are of another space than `space_id`.
    """
    metadata = read_concepts_metadata(concepts_path)
    if metadata.space_id != space_id:
        raise LvmError(
            f"The concepts of {concepts_path} are of space {metadata.space_id} and the vectors are of {space_id}, so "
            "none is near to the other; extract concepts of that space."
        )
    return kind(
        space_id=space_id,
        vectors=memory_mapped_vectors(concepts_path, vectors_dir),
        texts=read_columns(concepts_path, ["concept_text"])["concept_text"],
        rows=rows,
    )


def _best_of(found: Found, rows: Rows, cosines: NDArray[np.float32], count: int) -> Found:
    """Merge what was found in earlier blocks with the cosines of a block; rows of cosine -inf are left out."""
    threshold = -np.inf if len(cosines) <= count else np.partition(cosines, -count)[-count]
    near = np.flatnonzero((cosines >= threshold) & np.isfinite(cosines))
    rows, cosines = np.concatenate([found.rows, rows[near]]), np.concatenate([found.cosines, cosines[near]])
    order = np.lexsort((rows, -cosines))[:count]
    return Found(rows=rows[order], cosines=cosines[order])
