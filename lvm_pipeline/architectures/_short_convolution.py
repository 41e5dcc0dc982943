"""Convolution of every channel with its latest few positions, shared by Mamba-2 and Hyena.

Shapes: B = batch, T = context, C = channels.

    y_t = bias + sum_{j<width} weight_j x_{t-width+1+j}          nothing before the start
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.architectures._norms import NO_DECAY


class CausalConv(nn.Module):
    """Each channel's weighted sum of its latest positions, (B, T, C) -> (B, T, C); weight (width, C), oldest first."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"bias": NO_DECAY}

    def __init__(self, channels: int, width: int):
        """Draw weights as torch's convolution does."""
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(width, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, inputs: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve (B, T, C) after the width - 1 inputs `before` (default: zeros); also return the latest width - 1.

        Shifted products instead of a convolution, which is slow on few positions.
        """
        length, num_before = inputs.shape[1], len(self.weight) - 1
        joined = F.pad(inputs, (0, 0, num_before, 0)) if before is None else torch.cat([before, inputs], dim=1)
        sums = self.bias
        for shift, weight in enumerate(self.weight):
            sums = torch.addcmul(sums, joined[:, shift : shift + length], weight)
        return sums, joined[:, length:]


def reference_convolution(conv: CausalConv, inputs: Tensor) -> Tensor:
    """Convolve by plain sums, one position at a time, (B, T, C) -> (B, T, C); the slow twin."""
    width, convolved = len(conv.weight), []
    for t in range(inputs.shape[1]):
        taps = [conv.weight[width - 1 - lag] * inputs[:, t - lag] for lag in range(min(width, t + 1))]
        convolved.append(conv.bias + sum(taps))
    return torch.stack(convolved, dim=1)
