"""Norms, always in float32 under autocast, their gains and offsets free of weight decay.

Shapes: (..., H) -> (..., H).

    RMSNorm       gain * x / sqrt(mean(x^2) + eps)                        (Zhang and Sennrich, arXiv 1910.07467)
    GatedRMSNorm  RMSNorm(x * silu(gate)), each group of channels alone   (Mamba-2: the norm follows the gate)
    HeadNorm      layer norm of each head, one gain and offset a channel  (RWKV's group norm)
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.architectures._precision import at_least_float32, without_autocast

NO_DECAY = OptimiserSetting(weight_decay=False)


def rms_norm(states: Tensor, gain: Tensor | None = None, *, eps: float) -> Tensor:
    """Normalise the last axis by its root mean square, in float32 or wider."""
    with without_autocast(states):
        return F.rms_norm(at_least_float32(states), states.shape[-1:], gain, eps)


class RMSNorm(nn.Module):
    """Divide by the root of the mean square; a learned gain."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"weight": NO_DECAY}

    def __init__(self, width: int, *, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        return rms_norm(states, self.weight, eps=self.eps)


class GatedRMSNorm(nn.Module):
    """RMSNorm of the gated states, in `num_groups` groups of neighbouring channels."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"weight": NO_DECAY}

    def __init__(self, width: int, *, num_groups: int = 1, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.num_groups = num_groups
        self.eps = eps

    def forward(self, states: Tensor, gate: Tensor) -> Tensor:
        gated = at_least_float32(states) * F.silu(at_least_float32(gate))
        if self.num_groups == 1:
            return rms_norm(gated, self.weight, eps=self.eps)
        return rms_norm(gated.unflatten(-1, (self.num_groups, -1)), eps=self.eps).flatten(-2) * self.weight


class LayerNorm(nn.LayerNorm):
    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"weight": NO_DECAY, "bias": NO_DECAY}

    def forward(self, input: Tensor) -> Tensor:
        with without_autocast(input):
            return super().forward(at_least_float32(input))


class HeadNorm(nn.Module):
    """Layer norm of each head alone, then gains and offsets of all channels: (..., K, P) -> (..., K P)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"weight": NO_DECAY, "bias": NO_DECAY}

    def __init__(self, width: int, *, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        with without_autocast(states):
            normalised = F.layer_norm(at_least_float32(states), states.shape[-1:], eps=self.eps)
            return torch.addcmul(self.bias, normalised.flatten(-2), self.weight)
