"""A long kernel that a small network generates from its positions, in float64.

Paper: Poli et al., Hyena Hierarchy, 2023 (arXiv 2302.10866), section 3.3. Code: github.com/HazyResearch/safari
02220c6, `standalone_hyena.py`.

Shapes: T = context, L = longest context, E = 2 bands + 1 = features of a position, W = inner width, C = channels.

    z_l = [t, cos(2 pi f l / L) .., -sin(2 pi f l / L) ..],  t = l / (L - 1),  f in equal steps from 1e-4 to bands - 1
    kernel_l = exp(-t decay) * A sin(w (W_3 sin(w (W_2 sin(w (W_1 z_l + b_1)) + b_2)) + b_3))

The features z are learned from there, as the authors do, slowly; the frequencies w are learned and shared by the three
sines; the decays are fixed, each channel its own. L sets the scale of time: the same weights with another L are
another kernel. Sines of such large angles, one inside the other, cost float32 two digits (2e-5 of the kernel, in the
authors' code too) and would be noise in bfloat16; in float64 their cost is negligible, since there are
only T of them.
"""

import itertools
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.architectures._precision import without_autocast

NUM_SINES = 3
SINE_FREQUENCY = 14.0  # w of the fresh model, as in the authors' language models
LOWEST_BAND = 1e-4
FADED = 1e-2  # factor that the window has reached after this fraction of the longest context:
FADED_AFTER = (1.5, 0.3)  # in the first channel and in the last

OF_THE_FILTER = OptimiserSetting(weight_decay=False, learning_rate_factor=0.5)  # 1e-3 where the others have 2e-3
OF_POSITIONS = OptimiserSetting(weight_decay=False, learning_rate_factor=0.005)  # 1e-5 where the others have 2e-3


def position_features(num_positions: int, num_bands: int) -> Tensor:
    """Return z as it starts, (L, E)."""
    turns = 2 * math.pi * torch.arange(num_positions) / num_positions
    # with its device named: after transformers has loaded a model, `torch.device` as a context misses `linspace`
    shares = torch.linspace(0, 1, num_positions, device=turns.device)
    angles = turns[:, None] * torch.linspace(LOWEST_BAND, num_bands - 1, num_bands, device=turns.device)
    return torch.cat([shares[:, None], angles.cos(), -angles.sin()], dim=1)


class FilterLinear(nn.Linear):
    """A linear map that learns as the authors' filters do, in the precision of its input."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"weight": OF_THE_FILTER, "bias": OF_THE_FILTER}

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype), self.bias.to(input.dtype))


class ImplicitFilter(nn.Module):
    """The kernels of C channels, up to L positions long."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {
        "positions": OF_POSITIONS,
        "frequency": OF_THE_FILTER,
        "amplitudes": OF_THE_FILTER,
    }

    times: Tensor
    decay: Tensor

    def __init__(self, channels: int, *, num_positions: int, num_bands: int, width: int):
        super().__init__()
        self.positions = nn.Parameter(position_features(num_positions, num_bands))
        self.frequency = nn.Parameter(torch.full((width,), SINE_FREQUENCY))
        widths = (2 * num_bands + 1, *(width,) * NUM_SINES)
        self.layers = nn.ModuleList(FilterLinear(*pair) for pair in itertools.pairwise(widths))
        bound = 1 / math.sqrt(width)
        self.amplitudes = nn.Parameter(torch.empty(channels, width).uniform_(-bound, bound))
        slowest, fastest = (-math.log(FADED) / after for after in FADED_AFTER)
        self.register_buffer("times", torch.linspace(0, 1, num_positions))
        self.register_buffer("decay", torch.linspace(slowest, fastest, channels))

    def forward(self, length: int) -> Tensor:
        """Return the kernels for a context, (C, T), in the precision of the weights."""
        with without_autocast(self.positions):
            hidden, frequency = self.positions[:length].double(), self.frequency.double()
            for layer in self.layers:
                hidden = torch.sin(frequency * layer(hidden))
            window_CT = torch.exp(-self.decay[:, None].double() * self.times[:length].double())
            return (window_CT * (self.amplitudes.double() @ hidden.T)).to(self.amplitudes.dtype)
