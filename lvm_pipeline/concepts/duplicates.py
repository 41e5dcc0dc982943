"""Concepts that repeat the text or the vector of an earlier one, and the policy that drops them.

Texts and vectors are compared by Python's 64-bit hash (SipHash, for which collisions cannot be constructed), so that
the table is not held in memory. Among a million concepts, the probability of a collision is below one in ten million.
The hashes differ between processes and are never stored.

Shapes: n = rows of a batch, D = vector width.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def text_hashes(texts: Iterable[str | None]) -> NDArray[np.int64]:
    """Hash each text, shape (n,); a missing one counts as empty."""
    return np.array([hash(text or "") for text in texts], np.int64)


def vector_hashes(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Hash the bytes of each vector of an array (n, D), shape (n,)."""
    return np.array([hash(row.tobytes()) for row in vectors], np.int64)


class DuplicateFilter:
    """Keeps the first of all concepts with the same text or vector; `dropped` lists the others."""

    def __init__(self) -> None:
        self.dropped: list[dict[str, str]] = []
        self._texts: dict[int, int] = {}
        self._vectors: dict[int, int] = {}
        self._ids: list[pa.Array] = []
        self._num_seen = 0

    def keep(self, cpe_ids: pa.Array, texts: Sequence[str | None], vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which of the next rows, with vectors (n, D), are kept, (n,). Empty texts are never duplicates."""
        kept = np.ones(len(cpe_ids), np.bool_)
        hashes = zip(text_hashes(texts).tolist(), vector_hashes(vectors).tolist(), texts, strict=True)
        first_row = self._num_seen
        self._ids.append(cpe_ids)
        self._num_seen += len(cpe_ids)
        for row, (text_hash, vector_hash, text) in enumerate(hashes, first_row):
            same_text = self._texts.get(text_hash) if text and text.strip() else None
            earlier = same_text if same_text is not None else self._vectors.get(vector_hash)
            if earlier is None:
                self._texts[text_hash] = self._vectors[vector_hash] = row
                continue
            kept[row - first_row] = False
            reason = "same vector" if same_text is None else "same text"
            self.dropped.append({"cpe_id": self._id(row), "kept_cpe_id": self._id(earlier), "reason": reason})
        return kept

    def _id(self, row: int) -> str:
        return pa.chunked_array(self._ids)[row].as_py()
