"""The positions of a batch one after the other, without padding.

All contexts at position 0 come first, then those that have a position 1, and so on, the longest context first each
time; so the contexts that have a next position are the first ones at the current position.

Shapes: B = batch, T = context in concepts, P = packed positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def needed_lengths(at: Tensor) -> Tensor:
    """Return how many positions of each context are needed, (B,), at least one, to know those where `at` (B, T)."""
    return (at * torch.arange(1, at.shape[1] + 1, device=at.device)).amax(1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where the packed positions lie in a batch."""

    batch_size: int  # B
    length: int  # T
    sizes: list[int]  # contexts that have a position, for each position that any has; never growing, of sum P
    # index of each packed position in the flattened batch (B * T), shape (P,); None if nothing is padded
    indices: Tensor | None

    @classmethod
    def of(cls, batch_size: int, length: int, lengths: Tensor | None) -> "Packing":
        """Pack the first `lengths` (B,) positions of each context of a batch (B, T), at least one each; None: all."""
        if lengths is None or bool((lengths == length).all()):
            return cls(batch_size=batch_size, length=length, sizes=[batch_size] * length, indices=None)
        order = lengths.argsort(descending=True, stable=True)
        has_TB = torch.arange(int(lengths.max()))[:, None] < lengths[order]
        positions, ranks = has_TB.nonzero(as_tuple=True)
        indices = order[ranks] * length + positions
        return cls(batch_size=batch_size, length=length, sizes=has_TB.sum(1).tolist(), indices=indices)

    def pack(self, states: Tensor) -> Tensor:
        """Return the needed positions of (B, T, ...), shape (P, ...)."""
        if self.indices is None:
            return states.transpose(0, 1).flatten(0, 1)
        return states.flatten(0, 1).index_select(0, self.indices)

    def unpack(self, packed: Tensor) -> Tensor:
        """Put packed positions (P, H) back into a batch (B, T, H), with zeros elsewhere."""
        if self.indices is None:
            return packed.view(self.length, self.batch_size, -1).transpose(0, 1)
        flat = packed.new_zeros(self.batch_size * self.length, packed.shape[-1])
        return flat.index_copy(0, self.indices, packed).view(self.batch_size, self.length, -1)

    def unpack_at(self, packed: Tensor, at: Tensor) -> Tensor:
        """Return packed positions (P, H) where `at` (B, T) is True, (n, H), row by row; all of these are packed."""
        wanted = at.flatten().nonzero().squeeze(1)
        if self.indices is None:
            context, position = wanted // self.length, wanted % self.length
            return packed.index_select(0, position * self.batch_size + context)
        packed_at = wanted.new_empty(at.numel())
        packed_at[self.indices] = torch.arange(len(packed))
        return packed.index_select(0, packed_at[wanted])
