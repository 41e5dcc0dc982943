"""The contract of a decoder: vectors of one space to texts.

Shapes: B = vectors, D = vector width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError

if TYPE_CHECKING:
    from torch import Tensor

Rows = NDArray[np.int64]


class Decoder(Protocol):
    """Decodes vectors of the space `space_id` to texts."""

    @property
    def name(self) -> str: ...

    @property
    def space_id(self) -> str:
        """The only space whose vectors it accepts."""
        ...

    @property
    def identity(self) -> str:
        """Changes when it may write other texts: with its weights and options."""
        ...

    def decode(self, vectors: NDArray[np.float32], *, exclude: Sequence[Rows] | None = None) -> list[str]:
        """Decode vectors (B, D) of the space `space_id`, each to one text.

        `exclude` are for each vector the rows of the concept table that it was predicted from. A decoder that answers
        with concepts of that table does not answer with these; others ignore it.
        """
        ...


@runtime_checkable
class DifferentiableDecoder(Protocol):
    """A decoder that can tell how likely a text is, with gradients to the vectors."""

    def nll(self, vectors: "Tensor", texts: Sequence[str]) -> "Tensor":
        """Return the mean negative log-likelihood per token of each text given its vector, shape (B,).

        The result is differentiable in `vectors` (B, D). The decoder's own weights get no gradient.
        """
        ...


def refuse_other_space(decoder: Decoder, space_id: str) -> None:
    """Refuse vectors of another space than the decoder's.

    Raises:
        LvmError: If `space_id` is not the space of the decoder.
    """
    if decoder.space_id != space_id:
        raise LvmError(
            f"The decoder {decoder.name} reads vectors of space {decoder.space_id} and these are of {space_id}; use a "
            "decoder of their space."
        )


def refuse_other_shape(name: str, vectors: NDArray[np.float32], vector_dim: int) -> None:
    """Raise LvmError unless `vectors` is a matrix of finite vectors of the right width."""
    if vectors.ndim != 2 or vectors.shape[1] != vector_dim:
        raise LvmError(f"The decoder {name} reads vectors of shape (n, {vector_dim}), got {vectors.shape}.")
    if not np.isfinite(vectors).all():
        raise LvmError(f"The decoder {name} was given a vector with numbers that are not finite; leave it out.")
