"""The contract of an encoder: texts to unit vectors of one space.

Shapes: N = texts, D = vector width.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int], None]  # texts done, texts in all


class Encoder(Protocol):
    """Encodes texts as vectors. Encoders share a `space_id` only if their vectors can be mixed."""

    @property
    def space_id(self) -> str:
        """Identifies encoder, pooling, dense layers, norm and revision."""
        ...

    @property
    def vector_dim(self) -> int: ...

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Return one unit vector for each text, shape (N, D), which depends only on that text."""
        ...


def unit_length(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale the vectors along the last axis to length one; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def encoder_folder(encoders_dir: Path, space_id: str) -> Path:
    """Return the folder of the encoder of a space; different ids have different folders."""
    readable = re.sub(r"[^A-Za-z0-9._@+-]", "_", space_id)[:100].lstrip(".") or "_"
    if readable == space_id:
        return encoders_dir / space_id
    return encoders_dir / f"{readable}-{hashlib.sha256(space_id.encode()).hexdigest()[:8]}"
