"""Hyena: long convolutions with learned kernels, and gates between them, instead of attention.

Paper: Poli et al., Hyena Hierarchy: Towards Larger Convolutional Language Models, 2023 (arXiv
2302.10866), definition 3.1. Code: github.com/HazyResearch/safari 02220c6, `standalone_hyena.py`; norms and
MLPs around it as in `src/models/sequence/long_conv_lm.py`. Left out: embedding and head, dropout inside the
operator. There is no state of fixed size, so no step from concept to concept.

Shapes: B = batch, T = context in concepts, H = hidden width, O = order.

    [x_0 | .. | x_{O-1} | v] = conv(W_in u + b)              each channel with its own three latest positions
    v = kernel_o * (x v) + skip_o x v                        for x = x_{O-1} .. x_1, and o = 0 .. O-2
    out = W_out (x_0 v) + b

    u = u + out(LayerNorm(u)),  u = u + W_2 gelu(W_1 LayerNorm(u) + b_1) + b_2,  a last LayerNorm after L such pairs

The kernels are functions of the position (`_implicit_filter`), so a context has a longest length; `*` is a Toeplitz
product or an FFT (`_long_convolution`). Under autocast kernels stay in float64 and convolutions in float32. `full` has
the published width and more layers, to reach the size that the published model has with its token embeddings;
`published` has the authors' number of layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import Architecture, OptimiserSetting, Preset
from lvm_pipeline.architectures._implicit_filter import ImplicitFilter
from lvm_pipeline.architectures._long_convolution import causal_convolution
from lvm_pipeline.architectures._mlp import Mlp
from lvm_pipeline.architectures._norms import NO_DECAY, LayerNorm
from lvm_pipeline.architectures._short_convolution import CausalConv, reference_convolution
from lvm_pipeline.architectures._stack import ResidualStack, reference_of


@dataclass(frozen=True, kw_only=True)
class HyenaConfig(BackboneConfig):
    """Sizes of a Hyena; its context is at most `num_positions` long."""

    hidden_dim: int = 768
    num_layers: int = 17
    order: int = option(2, "Order of the recurrence: order - 1 long convolutions per layer.")
    num_positions: int = option(512, "Longest context, which is the length of the kernels.")
    num_bands: int = option(16, "Frequencies that the kernels are generated from.")
    filter_dim: int = option(64, "Width of the network that generates the kernels.")
    conv_width: int = option(3, "Width of the short convolution before the gates.")
    mlp_dim: int = option(3072, "Inner width of the MLPs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.order >= 2, "order", "at least 2")
        for name in ("num_positions", "num_bands", "filter_dim", "conv_width", "mlp_dim"):
            self.require(getattr(self, name) >= 1, name, "at least 1")


class HyenaOperator(nn.Module):
    """The operator between norm and residual, (B, T, H) -> (B, T, H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"skip": NO_DECAY}

    def __init__(self, config: HyenaConfig):
        """Draw weights as the authors do."""
        super().__init__()
        width, num_convolutions = config.hidden_dim, config.order - 1
        self.input_projection = nn.Linear(width, (config.order + 1) * width)
        self.conv = CausalConv((config.order + 1) * width, config.conv_width)
        self.filter = ImplicitFilter(
            num_convolutions * width,
            num_positions=config.num_positions,
            num_bands=config.num_bands,
            width=config.filter_dim,
        )
        self.skip = nn.Parameter(torch.randn(num_convolutions, width))
        self.out = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        first_gate, *gates, values = self.project(states)
        for gate, kernel, skip in zip(reversed(gates), self.kernels(states.shape[1]), self.skip, strict=True):
            gated = gate * values
            values = torch.addcmul(causal_convolution(gated, kernel), gated, skip)
        return self.out(first_gate * values)

    def project(self, states: Tensor) -> tuple[Tensor, ...]:
        """Return the gates x_0 .. x_{O-1} and v, (B, T, H) each."""
        convolved, _ = self.conv(self.input_projection(states))
        return convolved.chunk(len(self.skip) + 2, dim=-1)

    def kernels(self, length: int) -> Tensor:
        """Return the kernels of all convolutions, (O - 1, H, T)."""
        return self.filter(length).unflatten(0, self.skip.shape)


def mixers(config: HyenaConfig) -> ResidualStack:
    layers = []
    for _ in range(config.num_layers):
        mlp = Mlp(config.hidden_dim, config.mlp_dim, activation=partial(F.gelu, approximate="tanh"))
        layers.append((HyenaOperator(config), mlp))  # in this order, so that a seed draws the weights it always drew
    return ResidualStack(layers, LayerNorm, config)


def reference_operator(operator: HyenaOperator, states: Tensor) -> Tensor:
    """Convolve by plain sums, one position at a time, (B, T, H) -> (B, T, H); the slow twin."""
    length = states.shape[1]
    convolved = reference_convolution(operator.conv, operator.input_projection(states))
    gates = convolved.chunk(len(operator.skip) + 2, dim=-1)
    values = gates[-1]
    for number, kernel in enumerate(operator.kernels(length)):
        gated = gates[-2 - number] * values
        sums = [sum(kernel[:, t - s] * gated[:, s] for s in range(t + 1)) for t in range(length)]
        values = torch.stack([torch.as_tensor(each) for each in sums], dim=1) + operator.skip[number] * gated
    return operator.out(gates[0] * values)


ARCHITECTURE = Architecture(
    name="hyena",
    summary="Hyena, gated long convolutions with implicit kernels",
    sources=("https://arxiv.org/abs/2302.10866", "https://github.com/HazyResearch/safari (02220c6)"),
    config_class=HyenaConfig,
    presets={
        "smoke": Preset(
            config=HyenaConfig(hidden_dim=64, num_layers=2, num_bands=4, filter_dim=16, mlp_dim=256), num_params=444_332
        ),
        "small": Preset(
            config=HyenaConfig(dropout=0.5, hidden_dim=256, num_layers=6, mlp_dim=1024), num_params=5_696_204
        ),
        "full": Preset(config=HyenaConfig(), num_params=123_559_564),
        "published": Preset(config=HyenaConfig(num_layers=12), num_params=87_687_244),
    },
    build_model=lambda config: Backbone(config, mixers(config), max_context=config.num_positions),
    reference=reference_of({HyenaOperator: reference_operator}),
    sweep={"order": (2, 3), "filter_dim": (32, 64, 128)},
    gains_from_compile=True,
)
