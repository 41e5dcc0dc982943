"""DistilGPT-2: a transformer, six layers of GPT-2.

Papers: Radford et al., Language Models are Unsupervised Multitask Learners, 2019; Sanh et al.,
DistilBERT, 2019 (arXiv 1910.01108) for the six layers. Code: github.com/huggingface/transformers 5.23.0,
`models/gpt2/modeling_gpt2.py`. Left out: token embedding and head, and the distillation: there is no
larger model of concepts to distil.

Shapes: B = batch, T = context in concepts, H = hidden width, L = layers.

    u_0 = x + positions                                       learned, so a context has a longest length
    u   = u + attention(LayerNorm(u))                          `_attention`
    u   = u + W_2 gelu(W_1 LayerNorm(u) + b_1) + b_2           inner width 4 H, gelu by tanh
    a last LayerNorm after L such pairs; the sum u stays in float32

`full` keeps the six layers and is wider, to reach the size that the published model has with its token
embeddings; `published` has the authors' widths.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._attention import CausalSelfAttention, reference_attention
from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import Architecture, Preset
from lvm_pipeline.architectures._mlp import Mlp
from lvm_pipeline.architectures._norms import LayerNorm
from lvm_pipeline.architectures._precision import at_least_float32
from lvm_pipeline.architectures._stack import RecurrentStack, reference_of
from lvm_pipeline.errors import LvmError

START_DEVIATION = 0.02  # of every weight in the fresh model

Gpt2State = tuple[int, list[Any]]  # positions seen, and what each layer carries


@dataclass(frozen=True, kw_only=True)
class DistilGpt2Config(BackboneConfig):
    hidden_dim: int = 1056
    num_layers: int = 6
    num_heads: int = option(12, "Number of attention heads.")
    num_positions: int = option(512, "Longest context.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.num_heads >= 1, "num_heads", "at least 1")
        self.require(self.hidden_dim % self.num_heads == 0, "num_heads", f"a divisor of hidden_dim = {self.hidden_dim}")
        self.require(self.num_positions >= 1, "num_positions", "at least 1")


class Gpt2Mixers(RecurrentStack):
    """Learned positions, then L pairs of attention and MLP."""

    def __init__(self, config: DistilGpt2Config):
        """Draw weights as the authors do, those before a residual addition smaller by the root of their number."""
        super().__init__((_layer(config) for _ in range(config.num_layers)), LayerNorm, config)
        self.positions = nn.Parameter(torch.empty(config.num_positions, config.hidden_dim))
        nn.init.normal_(self.positions, std=START_DEVIATION)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                is_last = name.endswith((".out", ".narrow"))
                nn.init.normal_(
                    module.weight, std=START_DEVIATION / (math.sqrt(2 * config.num_layers) if is_last else 1)
                )
                nn.init.zeros_(module.bias)

    def prefill(self, states: Tensor, state: Gpt2State | None) -> tuple[Tensor, Gpt2State]:
        num_seen, layer_states = (0, None) if state is None else state
        mixed, layer_states = self.prefill_layers(self.prepare(states, num_seen), layer_states)
        return mixed, (num_seen + states.shape[1], layer_states)

    def prepare(self, states: Tensor, start: int = 0) -> Tensor:
        """Add the positions from `start` on, in float32 or wider.

        Raises:
            LvmError: If the context ends after the last learned position.
        """
        end = start + states.shape[1]
        if end > len(self.positions):
            raise LvmError(f"This model reads at most {len(self.positions)} concepts, got {end}; cut the context.")
        return at_least_float32(states) + self.positions[start:end]


def _layer(config: DistilGpt2Config) -> tuple[nn.Module, nn.Module]:
    attention = CausalSelfAttention(
        config.hidden_dim,
        num_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        has_bias=True,
        dropout=config.dropout,
    )
    return attention, Mlp(config.hidden_dim, 4 * config.hidden_dim, activation=partial(F.gelu, approximate="tanh"))


ARCHITECTURE = Architecture(
    name="distilgpt2",
    summary="Transformer (DistilGPT-2)",
    sources=("https://arxiv.org/abs/1910.01108", "https://github.com/huggingface/transformers (5.23.0, gpt2)"),
    config_class=DistilGpt2Config,
    presets={
        "smoke": Preset(config=DistilGpt2Config(hidden_dim=96, num_layers=2), num_params=660_268),
        "small": Preset(config=DistilGpt2Config(dropout=0.5, hidden_dim=240, num_layers=6), num_params=4_934_716),
        "full": Preset(config=DistilGpt2Config(), num_params=83_023_468),
        "published": Preset(config=DistilGpt2Config(hidden_dim=768, num_positions=1024), num_params=44_907_340),
    },
    build_model=lambda config: Backbone(config, Gpt2Mixers(config), max_context=config.num_positions),
    reference=reference_of({CausalSelfAttention: reference_attention}),
    sweep={"num_heads": (4, 8, 12)},
)
