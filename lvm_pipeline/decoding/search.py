"""Search for a text whose own vector is close to the decoded one: generate several texts and keep the closest.

Shapes: B = vectors, D = vector width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lvm_pipeline.decoding._options import checked
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.encoder import Encoder, unit_length

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How texts are searched for. All but the beam need the encoder of the space."""

    beam: Annotated[int, Field(ge=1)] = 1  # lines kept while the first text is written; 1 is greedy
    candidates: Annotated[int, Field(ge=1)] = 1  # texts written for each vector: the first, and drawn ones
    temperature: Annotated[float, Field(ge=0)] = 0.7  # of the drawn ones
    # the drawn ones decode vectors around the given one: standard deviation of that noise, relative to the mean
    # standard deviation of train vectors
    spread: Annotated[float, Field(ge=0)] = 0.0
    corrections: Annotated[int, Field(ge=0)] = 0  # further texts, after adding what the last one missed

    @property
    def needs_encoder(self) -> bool:
        """Whether texts have to be encoded to choose among them."""
        return self.candidates > 1 or self.corrections > 0


def checked_search(search: Search) -> Search:
    found = checked(search)
    if found.candidates > 1 and not found.temperature and not found.spread:
        raise LvmError("Several candidates are all the same text with temperature 0 and spread 0; set one of them.")
    return found


@dataclass
class Closest:
    """The closest text so far for each vector, (B, D)."""

    vectors: Vectors
    encoder: Encoder
    texts: list[str]
    cosines: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: Vectors, encoder: Encoder) -> "Closest":
        return cls(vectors, encoder, [""] * len(vectors), np.full(len(vectors), -np.inf, np.float32))

    def offer(self, texts: list[str]) -> Vectors:
        """Keep texts that are closer than those so far; return the vectors of the texts, (B, D)."""
        encoded = np.asarray(self.encoder.encode(texts), np.float32)
        cosines = np.einsum("bd,bd->b", unit_length(encoded), unit_length(self.vectors))
        is_closer = cosines > self.cosines
        self.texts = [new if closer else old for new, old, closer in zip(texts, self.texts, is_closer, strict=True)]
        self.cosines = np.maximum(cosines, self.cosines)
        return encoded


def around(vectors: Vectors, *, noise: float, count: int, seed: int) -> Iterator[Vectors]:
    """Yield `count` copies of the vectors with Gaussian noise of standard deviation `noise` added."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        added = rng.standard_normal(vectors.shape, np.float32) * np.float32(noise)
        yield np.asarray(vectors + added, np.float32) if noise else vectors


def corrected(closest: Closest, write: Callable[[Vectors], list[str]], encoded: Vectors, *, num: int) -> None:
    """Decode again `num` times, each time after adding what the vector of the last text missed; offer every text.

    As vec2text corrects (arXiv 2310.06816), but by moving the input of the decoder instead of a model of its own.
    """
    lengths = np.linalg.norm(closest.vectors, axis=1, keepdims=True)
    asked = closest.vectors
    for _ in range(num):
        asked = asked + closest.vectors - encoded * lengths
        asked = (unit_length(asked) * lengths).astype(np.float32)
        encoded = closest.offer(write(asked))
