"""Dropout whose random numbers are cheap on a CPU.

torch draws a random number of 64 bits for each element there, one after the other. Here a step draws one number, and
each element's bits are a hash of it and of the element's index, so that a loop computes many at once and the backward
pass finds them again. 16 bits decide on an element, so the probability is rounded to a multiple of 1 / 65536; what is
kept is scaled by exactly the share that is kept on average.

The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Of each 1024 elements, the first 256 take the lowest 16
bits of 256 hashes, the next 256 the next 16 bits, and so on.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._arrays import as_array

_LEVELS = 1 << 16
_BLOCK, _PART, _BITS = 1024, 256, 16
_WEYL, _FACTOR, _OTHER_FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Dropout(nn.Dropout):
    """`nn.Dropout`, by the function below."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, training=self.training)


def dropout(states: Tensor, probability: float, *, training: bool) -> Tensor:
    """Set elements to zero with a probability below 1 and scale the others so that the expectation stays."""
    if states.device.type != "cpu" or not training:
        return F.dropout(states, probability, training)
    num_dropped = round(probability * _LEVELS)
    if num_dropped == 0:
        return states
    seed = torch.empty((), dtype=torch.int64).random_(-(1 << 63), None)
    if torch.compiler.is_compiling():
        is_kept = levels(seed, states.numel()).view(states.shape) >= num_dropped
        return states * is_kept.to(states.dtype).mul_(_scale(num_dropped))
    return _Dropout.apply(states, int(seed), num_dropped)  # pyright: ignore[reportReturnType]


def levels(seed: Tensor, count: int) -> Tensor:
    """Return the random number from 0 to 65535 of each of `count` elements, (count,), for a seed of 64 bits."""
    index = torch.arange(count)
    within = index % _BLOCK
    hashes = (seed + index // _BLOCK * _PART + within % _PART) * _signed(_WEYL)
    hashes = (hashes ^ _shifted(hashes, 30)) * _signed(_FACTOR)
    hashes = (hashes ^ _shifted(hashes, 27)) * _signed(_OTHER_FACTOR)
    hashes = hashes ^ _shifted(hashes, 31)
    return (hashes >> _BITS * (within // _PART)) & (_LEVELS - 1)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, seed: int, num_dropped: int) -> Tensor:
        ctx.draw = seed, num_dropped
        return _dropped(states, seed, num_dropped)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _dropped(gradients[0], *ctx.draw), None, None


def _dropped(states: Tensor, seed: int, num_dropped: int) -> Tensor:
    from lvm_pipeline.architectures._loops import drop

    states = states.contiguous()
    kept = torch.empty_like(states)
    number = np.float64 if states.dtype == torch.float64 else np.float32
    drop(as_array(states).reshape(-1), seed, num_dropped, number(_scale(num_dropped)), as_array(kept).reshape(-1))
    return kept


def _scale(num_dropped: int) -> float:
    return _LEVELS / (_LEVELS - num_dropped)


def _signed(number: int) -> int:
    """Return the int64 of the same 64 bits."""
    return number - (1 << 64) if number >> 63 else number


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right as if unsigned."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
