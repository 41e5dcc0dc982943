"""The concepts of a table that lie nearest to a predicted vector.

Shapes: N = concepts in the table, D = vector width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import memory_mapped_vectors, read_columns
from lvm_pipeline.errors import LvmError

COLUMNS = ("cpe_id", "article_id", "position", "concept_text")
BLOCK = 16_384  # concepts whose lengths are found at once


@dataclass(frozen=True, kw_only=True)
class ConceptIndex:
    """A concept table to look in: `vectors` (N, D) with the length of each (N,), and what the concepts are called."""

    vectors: NDArray[np.float32]
    lengths: NDArray[np.float32]
    columns: pa.Table

    def nearest(self, vector: NDArray[np.float32], count: int) -> list[dict[str, Any]]:
        """Return the `count` concepts of the highest cosine to a vector (D,), best first; ties in table order."""
        length = max(float(np.linalg.norm(vector)), 1e-12)
        cosines = (self.vectors @ vector) / (self.lengths * length)
        count = min(count, len(cosines))
        candidates = np.argpartition(-cosines, count - 1)[:count]
        best = candidates[np.lexsort((candidates, -cosines[candidates]))]
        found = self.columns.take(pa.array(best)).to_pylist()
        return [{**concept, "cosine": round(float(cosines[row]), 6)} for concept, row in zip(found, best, strict=True)]


def open_index(concepts_path: Path, vectors_dir: Path, *, space_id: str) -> ConceptIndex:
    """Open a concept table for looking up.

    Raises:
        LvmError: If there is none, or its vectors are of another space.
    """
    metadata = read_concepts_metadata(concepts_path)
    if metadata.space_id != space_id:
        raise LvmError(
            f"The concepts of {concepts_path} are of space {metadata.space_id} and the model's are of {space_id}, so "
            "none is near to the other; extract concepts of the model's space, or leave --nearest out."
        )
    vectors = memory_mapped_vectors(concepts_path, vectors_dir)
    lengths = [np.linalg.norm(vectors[start : start + BLOCK], axis=1) for start in range(0, len(vectors), BLOCK)]
    return ConceptIndex(
        vectors=vectors,
        lengths=np.maximum(np.concatenate(lengths), np.float32(1e-12)),
        columns=read_columns(concepts_path, COLUMNS),
    )
