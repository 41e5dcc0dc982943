"""RWKV-7 "Goose": a recurrent network whose memory learns while it reads.

Paper: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025 (arXiv 2503.14456),
sections 3 and 4. Code: github.com/BlinkDL/RWKV-LM 524481d, `RWKV-v7/rwkv_v7_demo.py`; fresh weights as in
`RWKV-v7/train_temp/src/model.py`, but the first matrices of low rank start small instead of at zero, so
that learning reaches all weights within three steps. Left out: embedding and head.

Shapes: B = batch, T = context in concepts, H = hidden width, K = heads, N = H / K = head width, L = layers.

Time mix of x (after its norm), with x' the same one position earlier and x_n = x + (x' - x) mix_n for n
in r, w, k, v, a, g; low(x) = up act(down x), of low rank:

    r = W_r x_r      k = W_k x_k      v = W_v x_v      g = low_g(x_g), act the sigmoid
    log decay w = -exp(-1/2) sigmoid(w_0 + low_w(x_w)), act tanh          eta = sigmoid(a_0 + low_a(x_a))
    v = v + (v of the first layer - v) sigmoid(v_0 + low_v(x_v))          in all layers but the first
    kappa = normalised within each head(k k_k)        k = k (1 + (eta - 1) k_a)
    y = memory(r, w, k, v, a = -kappa, b = kappa eta)                     `_delta_rule`
    out = W_o (g (HeadNorm(y) + v sum_N(r k r_k)))

Channel mix of x likewise: W_v relu(W_k x_k)^2. A layer is u = u + time mix(LayerNorm(u)), u = u + channel
mix(LayerNorm(u)); before the first and after the last is one more LayerNorm; the sum u stays in float32.

`full` has the published width and more layers, to reach the size that the published model has with its
token embeddings; `published` is the authors' own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import Architecture, OptimiserSetting, Preset
from lvm_pipeline.architectures._delta_rule import DELTA_RULE, reference_delta_rule
from lvm_pipeline.architectures._norms import NO_DECAY, HeadNorm, LayerNorm
from lvm_pipeline.architectures._precision import at_least_float32
from lvm_pipeline.architectures._token_shift import previous

HEAD_NORM_EPS = 64e-5
STRONGEST_LOG_DECAY = -math.exp(-0.5)
SMALL = 1e-3  # standard deviation of the first low-rank matrices, which the authors start at zero
MIX_POWERS = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)  # of r, w, k, v, a, g in the fresh model

BlockState = tuple[Tensor, Tensor, Tensor]  # last input of the time mix (B, H), memory (B, K, N, N), of the channel mix


@dataclass(frozen=True, kw_only=True)
class RwkvConfig(BackboneConfig):
    """Widths, and the ranks of the low-rank projections."""

    hidden_dim: int = 768
    num_layers: int = 22
    head_dim: int = option(64, "Width of a head.")
    decay_rank: int = option(64, "Rank of the decay's projection.")
    rate_rank: int = option(64, "Rank of the in-context learning rate's projection.")
    value_rank: int = option(32, "Rank of the value mix's projection.")
    gate_rank: int = option(128, "Rank of the gate's projection.")
    mlp_dim: int = option(3072, "Inner width of the channel mixes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("head_dim", "decay_rank", "rate_rank", "value_rank", "gate_rank", "mlp_dim"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.hidden_dim % self.head_dim == 0, "head_dim", f"a divisor of hidden_dim = {self.hidden_dim}")


class LowRank(nn.Module):
    """up act(down x), (..., H) -> (..., H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"down": NO_DECAY, "up": NO_DECAY}

    def __init__(self, width: int, rank: int, act: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.down = nn.Parameter(torch.randn(width, rank) * SMALL)
        self.up = nn.Parameter(torch.empty(rank, width))
        nn.init.orthogonal_(self.up, gain=0.1 * math.sqrt(max(1.0, rank / width)))
        self.act = act

    def forward(self, states: Tensor) -> Tensor:
        narrow = states @ self.down
        return (narrow if self.act is None else self.act(narrow)) @ self.up


class ValueMix(LowRank):
    """How much of a value gives way to that of the first layer, (B, T, H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {**LowRank.optimiser_settings, "bias": NO_DECAY}

    def __init__(self, width: int, rank: int):
        """Start with a little less than three quarters."""
        super().__init__(width, rank)
        self.bias = nn.Parameter(0.73 - 0.4 * (torch.arange(width) / max(1, width - 1) - 0.5))

    def forward(self, states: Tensor) -> Tensor:
        """Return the share of the first layer."""
        return torch.sigmoid(self.bias + at_least_float32(super().forward(states)))


class Mixed(NamedTuple):
    """What the memory reads and writes, each (B, T, K, N), and the gate (B, T, H)."""

    r: Tensor
    log_decay: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    gate: Tensor


class TimeMix(nn.Module):
    """Mixes along the context, (B, T, H) -> (B, T, H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {
        "decay": OptimiserSetting(weight_decay=False, learning_rate_factor=2.0),
        **dict.fromkeys(("mix", "rate", "removal_scale", "rate_share", "bonus"), NO_DECAY),
    }

    def __init__(self, config: RwkvConfig, layer: int):
        """Start as the authors do for that layer, from 0; the output projection starts at zero."""
        super().__init__()
        width, self.head_dim = config.hidden_dim, config.head_dim
        depth = layer / max(1, config.num_layers - 1)
        powers = (1 - layer / config.num_layers) * torch.tensor(MIX_POWERS)
        channels = torch.arange(width)
        line, zigzag = channels / max(1, width - 1), _zigzag(width, config.head_dim)
        self.mix = nn.Parameter(1 - (channels / width) ** powers[:, None])
        self.decay = nn.Parameter(-5.5 + 6 * line ** (1 + depth**0.3) + 2.5 * zigzag)
        self.rate = nn.Parameter(-0.19 + 0.3 * zigzag + 0.4 * (line - 0.5))
        self.removal_scale = nn.Parameter(0.71 - 0.1 * (line - 0.5))
        self.rate_share = nn.Parameter(torch.full((width,), 1.02))
        self.bonus = nn.Parameter(torch.full((width // config.head_dim, config.head_dim), -0.04))
        self.low_decay = LowRank(width, config.decay_rank, torch.tanh)
        self.low_rate = LowRank(width, config.rate_rank)
        self.low_gate = LowRank(width, config.gate_rank, torch.sigmoid)
        self.value_mix = ValueMix(width, config.value_rank) if layer > 0 else None
        self.receptance, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        for linear, bound in ((self.receptance, 0.5), (self.key, 0.05), (self.value, 0.5), (self.out, 0.0)):
            nn.init.uniform_(linear.weight, -bound / math.sqrt(width), bound / math.sqrt(width))
        self.norm = HeadNorm(width, eps=HEAD_NORM_EPS)
        nn.init.constant_(self.norm.weight, ((1 + layer) / config.num_layers) ** 0.7)

    def project(self, states: Tensor, before: Tensor, first_values: Tensor | None) -> tuple[Mixed, Tensor]:
        """Compute the inputs of the memory from states (B, T, H) and the same one position earlier.

        `first_values` is v of the first layer (B, T, H), which is returned too; None in the first layer.
        """
        to_r, to_w, to_k, to_v, to_a, to_g = (states + (before - states) * self.mix[:, None, None]).unbind(0)
        r, k, v = self.receptance(to_r), at_least_float32(self.key(to_k)), at_least_float32(self.value(to_v))
        log_decay = STRONGEST_LOG_DECAY * torch.sigmoid(self.decay + at_least_float32(self.low_decay(to_w)))
        if self.value_mix is None or first_values is None:
            first_values = v
        else:
            v = torch.lerp(v, first_values, self.value_mix(to_v))
        rate = torch.sigmoid(self.rate + at_least_float32(self.low_rate(to_a)))
        removal = F.normalize(self._heads(k * self.removal_scale), dim=-1)
        k = k * (1 + (rate - 1) * self.rate_share)
        r, log_decay, k, v_heads, rate = (self._heads(part) for part in (r, log_decay, k, v, rate))
        return Mixed(r, log_decay, k, v_heads, -removal, removal * rate, self.low_gate(to_g)), first_values

    def project_out(self, memory: Tensor, mixed: Mixed) -> Tensor:
        """Norm, bonus of the present position, gate and projection: y (B, T, K, N) -> (B, T, H)."""
        bonus = (mixed.r * mixed.k * self.bonus).sum(-1, keepdim=True) * mixed.v
        return self.out((self.norm(memory) + bonus.flatten(-2)) * mixed.gate)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (-1, self.head_dim))


def _zigzag(width: int, head_dim: int) -> Tensor:
    """Return x |x| for x from -1 to 1 within each head, (H,)."""
    middle = (head_dim - 1) / 2
    within = (torch.arange(width) % head_dim - middle) / max(middle, 0.5)
    return within * within.abs()


class ChannelMix(nn.Module):
    """Works on each position and the one before, (B, T, H) -> (B, T, H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"mix": NO_DECAY}

    def __init__(self, config: RwkvConfig, layer: int):
        """Start as the authors do for that layer, from 0; the output projection starts at zero."""
        super().__init__()
        width = config.hidden_dim
        self.mix = nn.Parameter(1 - (torch.arange(width) / width) ** ((1 - layer / config.num_layers) ** 4))
        self.key = nn.Linear(width, config.mlp_dim, bias=False)
        self.value = nn.Linear(config.mlp_dim, width, bias=False)
        nn.init.uniform_(self.key.weight, -0.5 / math.sqrt(width), 0.5 / math.sqrt(width))
        nn.init.zeros_(self.value.weight)

    def forward(self, states: Tensor, before: Tensor) -> Tensor:
        return self.value(F.relu(self.key(torch.lerp(states, before, self.mix))).square())


class RwkvBlock(nn.Module):
    """Time mix and channel mix, each with its norm and residual."""

    def __init__(self, config: RwkvConfig, layer: int):
        super().__init__()
        self.time_norm, self.channel_norm = LayerNorm(config.hidden_dim), LayerNorm(config.hidden_dim)
        self.time_mix, self.channel_mix = TimeMix(config, layer), ChannelMix(config, layer)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, states: Tensor, first_values: Tensor | None, state: BlockState | None, *, returns_state: bool
    ) -> tuple[Tensor, Tensor, BlockState | None]:
        """Mix what follows on `state`.

        Returns:
            States (B, T, H), v of the first layer, and the state after the last position where it is wanted.
        """
        last_time, memory, last_channel = (None, None, None) if state is None else state
        to_time = self.time_norm(states)
        mixed, first_values = self.time_mix.project(to_time, previous(to_time, last_time), first_values)
        form = DELTA_RULE.form_for(mixed.r)
        read, memory = form(*mixed[:6], state=memory, returns_state=returns_state)
        states = states + self.dropout(self.time_mix.project_out(read, mixed))
        to_channel = self.channel_norm(states)
        states = states + self.dropout(self.channel_mix(to_channel, previous(to_channel, last_channel)))
        after = None if memory is None else (to_time[:, -1], memory, to_channel[:, -1])
        return states, first_values, after


class RwkvMixers(nn.Module):
    """A norm, L blocks, a norm."""

    def __init__(self, config: RwkvConfig):
        super().__init__()
        self.first_norm = LayerNorm(config.hidden_dim)
        self.blocks = nn.ModuleList(RwkvBlock(config, layer) for layer in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_dim)

    def forward(self, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Mix states (B, T, H); return them, or (n, H) at the positions where `at` (B, T) is True."""
        mixed, _ = self._mix(states, [None] * len(self.blocks), returns_state=False)
        return self.norm(mixed if at is None else mixed[at])

    def prefill(self, states: Tensor, state: list[Any] | None) -> tuple[Tensor, list[Any]]:
        block_states = [None] * len(self.blocks) if state is None else state
        mixed, after = self._mix(states, block_states, returns_state=True)
        return self.norm(mixed), after

    def _mix(self, states: Tensor, block_states: list[Any], *, returns_state: bool) -> tuple[Tensor, list[Any]]:
        states, first_values, after = self.first_norm(states), None, []
        for block, state in zip(self.blocks, block_states, strict=True):
            states, first_values, state = block(states, first_values, state, returns_state=returns_state)
            after.append(state)
        return states, after


def reference(model: Backbone, contexts: Tensor) -> Tensor:
    """Predict with the plain recurrence."""
    mixers = model.mixers
    assert isinstance(mixers, RwkvMixers)
    states, first_values = mixers.first_norm(model.states_of(contexts)), None
    for block in mixers.blocks:
        assert isinstance(block, RwkvBlock)
        normed = block.time_norm(states)
        before = torch.cat([torch.zeros_like(normed[:, :1]), normed[:, :-1]], dim=1)
        mixed, first_values = block.time_mix.project(normed, before, first_values)
        states = states + block.time_mix.project_out(reference_delta_rule(*mixed[:6]), mixed)
        normed = block.channel_norm(states)
        before = torch.cat([torch.zeros_like(normed[:, :1]), normed[:, :-1]], dim=1)
        states = states + block.channel_mix(normed, before)
    return model.predict_from(contexts, mixers.norm(states))


ARCHITECTURE = Architecture(
    name="rwkv",
    summary="RWKV-7, a recurrent network whose memory learns while it reads",
    sources=("https://arxiv.org/abs/2503.14456", "https://github.com/BlinkDL/RWKV-LM (524481d, RWKV-v7)"),
    config_class=RwkvConfig,
    presets={
        "smoke": Preset(
            config=RwkvConfig(
                hidden_dim=64,
                num_layers=2,
                head_dim=32,
                decay_rank=16,
                rate_rank=16,
                value_rank=8,
                gate_rank=16,
                mlp_dim=256,
            ),
            num_params=444_108,
        ),
        "small": Preset(
            config=RwkvConfig(dropout=0.5, hidden_dim=256, num_layers=4, mlp_dim=1024), num_params=4_413_516
        ),
        "full": Preset(config=RwkvConfig(), num_params=167_311_948),
        "published": Preset(config=RwkvConfig(num_layers=12), num_params=91_963_468),
    },
    build_model=lambda config: Backbone(config, RwkvMixers(config)),
    reference=reference,
    sweep={"num_layers": (4, 8, 12, 16, 22)},
)
