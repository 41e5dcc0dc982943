"""RWKV-4: receptance, weight, key and value, the version that RWKV's 169M model was released with.

Paper: Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023 (arXiv 2305.13048), section 3.
Code: github.com/BlinkDL/RWKV-LM 524481d, `RWKV-v4neo/src/model.py`; github.com/huggingface/transformers
5.23.0, `models/rwkv`. Left out: embedding and head, and the halving of weights every six layers that keeps
float16 in range. Fresh weights are the authors', but keys and receptance start small instead of at zero, so
that learning reaches all weights within three steps.

Shapes: B = batch, T = context in concepts, H = hidden width, L = layers.

Time mix of x (after its norm), with x' the same one position earlier and x_n = mix_n x + (1 - mix_n) x':

    out = W_o (sigmoid(W_r x_r) * wkv(w = -exp(decay), u = bonus, W_k x_k, W_v x_v))          `_wkv`

Channel mix of x likewise: sigmoid(W_r x_r) * W_v relu(W_k x_k)^2. A layer is u = u + time mix(LayerNorm(u)),
u = u + channel mix(LayerNorm(u)); before the first and after the last is one more LayerNorm; the sum u stays
in float32.

`full` has the published width and more layers, to reach the size that the published model has with its
token embeddings; `published` is the authors' own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import Architecture, OptimiserSetting, Preset
from lvm_pipeline.architectures._norms import NO_DECAY, LayerNorm
from lvm_pipeline.architectures._precision import at_least_float32
from lvm_pipeline.architectures._stack import RecurrentStack, reference_of
from lvm_pipeline.architectures._token_shift import previous
from lvm_pipeline.architectures._wkv import Sums, reference_weighted_key_values, weighted_key_values

SMALL = 1e-3  # deviation of keys and receptance in the fresh model, which the authors start at zero

TimeMixState = tuple[Tensor, Sums]  # the last input (B, H), and the sums over all positions


@dataclass(frozen=True, kw_only=True)
class Rwkv4Config(BackboneConfig):
    hidden_dim: int = 768
    num_layers: int = 22
    mlp_dim: int = option(3072, "Inner width of the channel mixes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.mlp_dim >= 1, "mlp_dim", "at least 1")


def _mixes(width: int, layer: int, num_layers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return how much of the present position k, v and r read in the fresh model, (H,) each."""
    channels, left = torch.arange(width) / width, 1 - layer / num_layers
    shared = channels**left
    return shared, shared + 0.3 * layer / max(1, num_layers - 1), channels ** (left / 2)


class TimeMix(nn.Module):
    """Mixes along the context, (B, T, H) -> (B, T, H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {
        **dict.fromkeys(("mix_k", "mix_v", "mix_r"), NO_DECAY),
        "decay": OptimiserSetting(weight_decay=False, learning_rate_factor=2.0),
        "bonus": OptimiserSetting(weight_decay=False, learning_rate_factor=3.0),
    }

    def __init__(self, config: Rwkv4Config, layer: int):
        """Start as the authors do for that layer, from 0; the output projection starts at zero."""
        super().__init__()
        width = config.hidden_dim
        depth = layer / max(1, config.num_layers - 1)
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(mix) for mix in _mixes(width, layer, config.num_layers))
        line = torch.arange(width) / max(1, width - 1)
        self.decay = nn.Parameter(-5 + 8 * line ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((torch.arange(width) + 1) % 3 - 1))
        self.key, self.value, self.receptance, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        nn.init.orthogonal_(self.value.weight)
        for linear, deviation in ((self.key, SMALL), (self.receptance, SMALL), (self.out, 0.0)):
            nn.init.normal_(linear.weight, std=deviation)

    def forward(self, states: Tensor) -> Tensor:
        return self.prefill(states, None)[0]

    def prefill(self, states: Tensor, state: TimeMixState | None) -> tuple[Tensor, TimeMixState]:
        last, sums = (None, None) if state is None else state
        keys, values, receptance = self.project(states, previous(states, last))
        mean, sums = weighted_key_values(-self.decay.exp(), self.bonus, keys, values, sums=sums)
        return self.out(receptance * mean), (states[:, -1], sums)

    def project(self, states: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, values and receptance, (B, T, H) each; `before` is one position earlier."""
        keys = self.key(torch.lerp(before, states, self.mix_k))
        values = self.value(torch.lerp(before, states, self.mix_v))
        return keys, values, torch.sigmoid(self.receptance(torch.lerp(before, states, self.mix_r)))


class ChannelMix(nn.Module):
    """Works on each position and the one before, (B, T, H) -> (B, T, H); the state is the last input (B, H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {"mix_k": NO_DECAY, "mix_r": NO_DECAY}

    def __init__(self, config: Rwkv4Config, layer: int):
        """Start as the authors do for that layer, from 0; the output projection starts at zero."""
        super().__init__()
        width = config.hidden_dim
        shared, _, _ = _mixes(width, layer, config.num_layers)
        self.mix_k, self.mix_r = nn.Parameter(shared), nn.Parameter(shared.clone())
        self.key = nn.Linear(width, config.mlp_dim, bias=False)
        self.value = nn.Linear(config.mlp_dim, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.key.weight, gain=math.sqrt(max(1.0, config.mlp_dim / width)))
        for linear, deviation in ((self.receptance, SMALL), (self.value, 0.0)):
            nn.init.normal_(linear.weight, std=deviation)

    def forward(self, states: Tensor) -> Tensor:
        return self.prefill(states, None)[0]

    def prefill(self, states: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        before = previous(states, state)
        keys = F.relu(self.key(torch.lerp(before, states, self.mix_k))).square()
        receptance = torch.sigmoid(self.receptance(torch.lerp(before, states, self.mix_r)))
        return receptance * self.value(keys), states[:, -1]


class Rwkv4Mixers(RecurrentStack):
    """A norm, L pairs of time mix and channel mix, a norm."""

    def __init__(self, config: Rwkv4Config):
        layers = ((TimeMix(config, layer), ChannelMix(config, layer)) for layer in range(config.num_layers))
        super().__init__(layers, LayerNorm, config)
        self.first_norm = LayerNorm(config.hidden_dim)

    def prepare(self, states: Tensor) -> Tensor:
        return at_least_float32(self.first_norm(states))


def reference_time_mix(mix: TimeMix, states: Tensor) -> Tensor:
    """Mix by the formula, (B, T, H) -> (B, T, H); the slow twin."""
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
    keys, values, receptance = mix.project(states, before)
    return mix.out(receptance * reference_weighted_key_values(-mix.decay.exp(), mix.bonus, keys, values))


ARCHITECTURE = Architecture(
    name="rwkv4",
    summary="RWKV-4, the version of RWKV's 169M model",
    sources=("https://arxiv.org/abs/2305.13048", "https://github.com/BlinkDL/RWKV-LM (524481d, RWKV-v4neo)"),
    config_class=Rwkv4Config,
    presets={
        "smoke": Preset(config=Rwkv4Config(hidden_dim=64, num_layers=2, mlp_dim=256), num_params=438_028),
        "small": Preset(
            config=Rwkv4Config(dropout=0.5, hidden_dim=256, num_layers=4, mlp_dim=1024), num_params=4_094_284
        ),
        "full": Preset(config=Rwkv4Config(), num_params=170_470_732),
        "published": Preset(config=Rwkv4Config(num_layers=12), num_params=93_709_132),
    },
    build_model=lambda config: Backbone(config, Rwkv4Mixers(config)),
    reference=reference_of({TimeMix: reference_time_mix}),
    sweep={"num_layers": (4, 8, 12, 16, 22)},
    variant_of="rwkv",
    gains_from_compile=True,
)
