"""Rotation of queries and keys by their position, so that their product depends on the distance alone.

Paper: Su et al., RoFormer, 2021 (arXiv 2104.09864). Two pairings of channels are in use: the first half
with the second (GPT-NeoX, Bamba), and neighbours (RoFormer, RetNet, LCM).

Shapes: B = batch, K = heads, T = context, N = head width, R = rotated pairs.

    (a, b) -> (a cos - b sin, b cos + a sin)        with angle = position * frequency of the pair
"""

import torch
from torch import Tensor

from lvm_pipeline.architectures._precision import at_least_float32

THETA = 10_000.0


def frequencies(num_pairs: int, *, device: torch.device | None = None) -> Tensor:
    """Return theta^(-i/R) for the pairs i < R, in float64; theta is 10,000."""
    return THETA ** -(torch.arange(num_pairs, dtype=torch.float64, device=device) / num_pairs)


def angles(length: int, pair_frequencies: Tensor, *, start: int = 0) -> Tensor:
    """Return the angles of positions from `start` on, (T, R), in float64: far positions turn often."""
    positions = torch.arange(start, start + length, dtype=torch.float64, device=pair_frequencies.device)
    return positions[:, None] * pair_frequencies


def rotate_halves(states: Tensor, turn: Tensor) -> Tensor:
    """Rotate the first 2 R channels of (B, K, T, N), i with R + i, by angles (T, R); the others stay."""
    turned, rest = states.split((2 * turn.shape[-1], states.shape[-1] - 2 * turn.shape[-1]), dim=-1)
    first, second = at_least_float32(turned).chunk(2, dim=-1)
    return torch.cat([*_turn(first, second, turn), rest], dim=-1).to(states.dtype)


def rotate_neighbours(states: Tensor, turn: Tensor) -> Tensor:
    """Rotate all channels of (B, K, T, N), 2i with 2i + 1, by angles (T, N / 2)."""
    first, second = at_least_float32(states).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack(_turn(first, second, turn), dim=-1).flatten(-2).to(states.dtype)


def _turn(first: Tensor, second: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = turn.cos().to(first.dtype), turn.sin().to(first.dtype)
    return first * cos - second * sin, second * cos + first * sin
