"""Performer: attention of linear cost, its softmax estimated by random features.

Paper: Choromanski et al., Rethinking Attention with Performers, 2020 (arXiv 2009.14794). Code:
github.com/lucidrains/performer-pytorch 1.1.4, a port of github.com/google-research/google-research
`performer`. Left out: embedding and head, absolute positions, reversible layers, local attention heads. The
authors' code sees the future through its maximum of keys; ours does not (`_favor`).

Shapes: B = batch, T = context in concepts, H = hidden width, K = heads, N = H / K = head width, M = features.

    q, k, v = W_qkv u + b,  q and k turned by their position (`_rotary`) where `has_rotation`
    out = W_o favor(q, k, v) + b                               of every head, one projection M x N a layer

    u = u + out(LayerNorm(u)),  u = u + W_2 gelu(W_1 LayerNorm(u) + b_1) + b_2,  a last LayerNorm after L such pairs

Features are random, not learned: the projections are drawn with the weights and saved with them. In training they are
redrawn every `redraw_steps` optimiser steps, so that the model does not overfit to one draw; in evaluation never. A
state of fixed size carries what came before, so a step costs the same at any length.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import Architecture, Preset
from lvm_pipeline.architectures._favor import (
    KERNELS,
    FavorState,
    favor_attention,
    favor_features,
    orthogonal_projection,
    reference_favor_attention,
)
from lvm_pipeline.architectures._mlp import Mlp
from lvm_pipeline.architectures._norms import LayerNorm
from lvm_pipeline.architectures._rotary import angles, frequencies, rotate_neighbours
from lvm_pipeline.architectures._stack import RecurrentStack, reference_of

PerformerState = tuple[int, FavorState]  # positions seen, and their sums


@dataclass(frozen=True, kw_only=True)
class PerformerConfig(BackboneConfig):
    hidden_dim: int = 768
    num_layers: int = 14
    num_heads: int = option(12, "Number of attention heads.")
    num_features: int = option(266, "Random features per head.")
    kernel: str = option("softmax", "Kernel that the features approximate: softmax or relu.")
    has_rotation: bool = option(True, "Rotate queries and keys by their position.")
    redraw_steps: int = option(1000, "Training steps between redraws of the features; 0: never.")
    mlp_dim: int = option(3072, "Inner width of the MLPs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_heads", "num_features", "mlp_dim"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.hidden_dim % self.num_heads == 0, "num_heads", f"a divisor of hidden_dim = {self.hidden_dim}")
        head_dim = self.hidden_dim // self.num_heads
        can_turn = not self.has_rotation or head_dim % 2 == 0
        self.require(can_turn, "num_heads", f"such that hidden_dim / num_heads is even, not {head_dim}")
        self.require(self.kernel in KERNELS, "kernel", " or ".join(KERNELS))
        self.require(self.redraw_steps >= 0, "redraw_steps", "0 (never) or more")


class PerformerAttention(nn.Module):
    """Attention by random features, (B, T, H) -> (B, T, H)."""

    projection: Tensor

    def __init__(self, config: PerformerConfig):
        super().__init__()
        self.head_dim = config.hidden_dim // config.num_heads
        self.kernel, self.has_rotation = config.kernel, config.has_rotation
        self.qkv = nn.Linear(config.hidden_dim, 3 * config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.register_buffer("projection", orthogonal_projection(config.num_features, self.head_dim))

    def redraw(self, generator: torch.Generator) -> None:
        """Replace the projection by a new draw of a generator on the CPU, wherever the model is."""
        self.projection.copy_(orthogonal_projection(*self.projection.shape, generator=generator))

    def forward(self, states: Tensor) -> Tensor:
        queries, keys, values = self.project(states, 0)
        features = favor_features(queries, keys, self.projection, kernel=self.kernel)
        attended, _ = favor_attention(features, values)
        return self.out(attended.flatten(2))

    def prefill(self, states: Tensor, state: PerformerState | None) -> tuple[Tensor, PerformerState]:
        num_seen, sums = (0, None) if state is None else state
        queries, keys, values = self.project(states, num_seen)
        maximum = None if sums is None else sums.maximum
        features = favor_features(queries, keys, self.projection, kernel=self.kernel, maximum=maximum)
        attended, sums = favor_attention(features, values, state=sums, returns_state=True)
        assert sums is not None
        return self.out(attended.flatten(2)), (num_seen + states.shape[1], sums)

    def project(self, states: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return turned queries and keys and values, (B, T, K, N) each; `start` is the first position."""
        queries, keys, values = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv(states).chunk(3, dim=-1))
        if self.has_rotation:
            turn = angles(states.shape[1], frequencies(self.head_dim // 2, device=states.device), start=start)
            queries, keys = (rotate_neighbours(part.transpose(1, 2), turn).transpose(1, 2) for part in (queries, keys))
        return queries, keys, values


class PerformerMixers(RecurrentStack):
    """L pairs of attention and MLP, whose random features are redrawn in training."""

    def __init__(self, config: PerformerConfig):
        layers = (
            (PerformerAttention(config), Mlp(config.hidden_dim, config.mlp_dim)) for _ in range(config.num_layers)
        )
        super().__init__(layers, LayerNorm, config)
        self.redraw_steps = config.redraw_steps
        self.redraw_seed = torch.initial_seed()

    def start_step(self, step: int) -> None:
        """Redraw the features if it is time to, from seed and step alone, so that every process draws the same."""
        if not self.redraw_steps or step % self.redraw_steps:
            return
        generator = torch.Generator().manual_seed(hash((self.redraw_seed, step)) % 2**63)
        for layer in self.layers:
            if isinstance(layer.inner, PerformerAttention):
                layer.inner.redraw(generator)

    def get_extra_state(self) -> Tensor:
        """Return the seed of the redraws, which is saved with the weights."""
        return torch.tensor(self.redraw_seed % 2**63, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        self.redraw_seed = int(state)


def _usual_features(head_dim: int) -> int:
    """Return N log N, the number of features in the authors' code for heads of width N."""
    return int(head_dim * math.log(head_dim))


def reference_performer_attention(attention: PerformerAttention, states: Tensor) -> Tensor:
    """Attend by the plain formula."""
    queries, keys, values = attention.project(states, 0)
    attended = reference_favor_attention(queries, keys, values, attention.projection, kernel=attention.kernel)
    return attention.out(attended.flatten(2))


ARCHITECTURE = Architecture(
    name="performer",
    summary="Performer, linear attention by random features",
    sources=("https://arxiv.org/abs/2009.14794", "https://github.com/lucidrains/performer-pytorch (1.1.4)"),
    config_class=PerformerConfig,
    presets={
        "smoke": Preset(
            config=PerformerConfig(
                hidden_dim=64, num_layers=2, num_heads=4, num_features=_usual_features(16), mlp_dim=256
            ),
            num_params=429_964,
        ),
        "small": Preset(
            config=PerformerConfig(dropout=0.5, hidden_dim=256, num_layers=6, num_heads=4, mlp_dim=1024),
            num_params=5_413_196,
        ),
        "full": Preset(config=PerformerConfig(), num_params=100_823_884),
    },
    build_model=lambda config: Backbone(config, PerformerMixers(config)),
    reference=reference_of({PerformerAttention: reference_performer_attention}),
    sweep={"num_features": (64, 128, 266), "kernel": KERNELS, "redraw_steps": (1, 1000)},
)
