"""RWKV-4's weighted mean of all values so far, each channel for itself.

Paper: Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023 (arXiv 2305.13048), equation 16 and
appendix D for the running maximum.

Shapes: B = batch, T = context, C = channels, n = chunks, c = chunk length.

    wkv_t = (sum_{s<t} e^((t-1-s) w + k_s) v_s + e^(u + k_t) v_t) / (the same without v)          w < 0

Both sums are carried divided by e^m, m the largest exponent in them, so that nothing overflows. Above
`LONGEST_LOOP` positions the context is cut into about sqrt(T) chunks: sums within all chunks are made at
once, position by position, then carried over the chunks, which takes 2 sqrt(T) steps instead of T. The
result does not depend on m, so no gradient passes through it.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._precision import at_least_float32, without_autocast

LONGEST_LOOP = 16
LOWEST = -1e38  # exponent of nothing


class Sums(NamedTuple):
    """Numerator, denominator and the exponent m that both are divided by, (B, .., C) each."""

    numerator: Tensor
    denominator: Tensor
    exponent: Tensor

    def plus(self, numerator: Tensor, denominator: Tensor | float, exponent: Tensor, *, fading: Tensor) -> "Sums":
        """Fade these sums by `fading`, an exponent, and add others, divided by e^exponent, to them."""
        ours = self.exponent + fading
        with torch.no_grad():
            largest = torch.maximum(ours, exponent)
        fade, grow = (ours - largest).exp(), (exponent - largest).exp()
        return Sums(fade * self.numerator + grow * numerator, fade * self.denominator + grow * denominator, largest)


def weighted_key_values(
    decay: Tensor, bonus: Tensor, keys: Tensor, values: Tensor, *, sums: Sums | None = None
) -> tuple[Tensor, Sums]:
    """Run the mean over keys and values (B, T, C), with w (C,) below 0 and u (C,), after `sums`, None at the start.

    Returns wkv (B, T, C) in float32 or wider, and the sums after the last position.
    """
    with without_autocast(keys):
        decay, bonus, keys, values = (at_least_float32(part) for part in (decay, bonus, keys, values))
        sums = nothing(keys[:, 0]) if sums is None else sums
        if keys.shape[1] <= LONGEST_LOOP:
            before, after = _before_each(decay, keys, values, sums)
        else:
            before, after = _before_each_by_chunks(decay, keys, values, sums)
        total = before.plus(values, 1.0, keys + bonus, fading=torch.zeros_like(decay))
        return total.numerator / total.denominator, after


def nothing(like: Tensor) -> Sums:
    """Return the sums of no positions, of that shape."""
    return Sums(torch.zeros_like(like), torch.zeros_like(like), torch.full_like(like, LOWEST))


def _before_each(decay: Tensor, keys: Tensor, values: Tensor, sums: Sums) -> tuple[Sums, Sums]:
    """Return the sums before every position of the second last axis, and those after the last."""
    before = []
    for key, value in zip(keys.unbind(-2), values.unbind(-2), strict=True):
        before.append(sums)
        sums = sums.plus(value, 1.0, key, fading=decay)
    return Sums(*(torch.stack(parts, dim=-2) for parts in zip(*before, strict=True))), sums


def _before_each_by_chunks(decay: Tensor, keys: Tensor, values: Tensor, sums: Sums) -> tuple[Sums, Sums]:
    length = keys.shape[1]
    chunk = math.ceil(math.sqrt(length))
    num_chunks = math.ceil(length / chunk)
    missing = num_chunks * chunk - length

    keys = F.pad(keys, (0, 0, 0, missing), value=LOWEST).unflatten(1, (num_chunks, chunk))
    values = F.pad(values, (0, 0, 0, missing)).unflatten(1, (num_chunks, chunk))
    within, whole = _before_each(decay, keys, values, nothing(keys[:, :, 0]))
    starts = []
    for number in range(num_chunks):
        starts.append(sums)
        sums = sums.plus(*(part[:, number] for part in whole), fading=chunk * decay)
    start = Sums(*(torch.stack(parts, dim=1)[:, :, None] for parts in zip(*starts, strict=True)))
    steps = torch.arange(chunk, device=keys.device, dtype=keys.dtype)[:, None]
    before = start.plus(*within, fading=steps * decay)
    before = Sums(*(part.flatten(1, 2)[:, :length] for part in before))
    if missing == 0:
        return before, sums
    last = Sums(*(part[:, -1] for part in before))
    return before, last.plus(values.flatten(1, 2)[:, length - 1], 1.0, keys.flatten(1, 2)[:, length - 1], fading=decay)


def reference_weighted_key_values(decay: Tensor, bonus: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Sum by the formula above, all pairs of positions; the slow twin."""
    outputs = []
    for t in range(keys.shape[1]):
        lags = torch.arange(t - 1, -1, -1, device=keys.device, dtype=keys.dtype)[:, None]
        exponents = torch.cat([lags * decay + keys[:, :t], bonus + keys[:, t : t + 1]], dim=1)
        outputs.append((exponents.softmax(dim=1) * values[:, : t + 1]).sum(1))
    return torch.stack(outputs, dim=1)
