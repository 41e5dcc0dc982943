"""A decoder's texts of the true vectors: the same for every trial on the same data, so they are cached.

Shapes: S = targets, D = vector width.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.decoding._contract import Decoder, Rows
from lvm_pipeline.evaluation.kept import kept_or_made
from lvm_pipeline.training.provenance import code_version

KEPT_FILES = 12

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors | None]


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What a decoder writes for the true vectors, and the vectors of these texts; None if they could not be encoded."""

    texts: list[str]
    vectors: Vectors | None
    second: Vectors | None  # by the second encoder


def kept_ceiling(
    decoder: Decoder,
    vectors: Vectors,
    exclude: Sequence[Rows],
    *,
    encode: Encode,
    encode_second: Encode,
    made_from: Sequence[Any],
    cache_dir: Path | None,
) -> Ceiling:
    """Decode true vectors, (S, D), or read what an earlier evaluation cached.

    `made_from` are JSON values that change with the data, the targets and the encoders.
    """

    def make() -> Ceiling:
        texts = decoder.decode(vectors, exclude=exclude)
        return Ceiling(texts=texts, vectors=encode(texts), second=encode_second(texts))

    digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
    return kept_or_made(
        cache_dir,
        "text-ceiling",
        [decoder.identity, digest, *made_from, code_version(__name__, type(decoder).__module__)],
        make=make,
        pack=_packed,
        unpack=lambda file, facts: _unpacked(file, facts, len(vectors)),
        num_kept=KEPT_FILES,
    )


def _packed(ceiling: Ceiling) -> tuple[dict[str, Any], Any]:
    arrays = {"vectors": ceiling.vectors, "second": ceiling.second}
    return {name: array for name, array in arrays.items() if array is not None}, ceiling.texts


def _unpacked(file: Mapping[str, Any], texts: Any, num: int) -> Ceiling | None:
    if not isinstance(texts, list) or len(texts) != num:
        return None
    arrays = {name: file.get(name) for name in ("vectors", "second")}
    return Ceiling(texts=texts, **arrays)
