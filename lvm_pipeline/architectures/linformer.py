"""Linformer: attention over a few sums of the context instead of all its positions.

Paper: Wang et al., Linformer: Self-Attention with Linear Complexity, 2020 (arXiv 2006.04768), equation 7.
Code: github.com/lucidrains/linformer 0.2.3. Left out: embedding and head, learned positions (the sums tell
positions apart) and reversible layers.

Shapes: B = batch, T = context in concepts, H = hidden width, K = heads, N = H / K = head width,
S = num_positions, k = num_sums.

    Q = W_q u,  K = W_k E^T u,  V = W_v F^T u         E and F, S x k, sum over positions; for T < S, their first rows
    o_t = softmax(q_t K^T / sqrt(N)) V  of each head   k weights instead of T
    out = W_o o + b

    u = u + out(LayerNorm(u)),  u = u + W_2 gelu(W_1 LayerNorm(u) + b_1) + b_2,  a last LayerNorm after L such pairs

Every sum reads the whole context, so every position sees all others: the model is not causal. It is used on
windows, where the answer is the last position, which has nothing after it; predictions at the other positions
have seen their own targets and mean nothing. Its longest context is S, the window it is made for.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import Architecture, Preset
from lvm_pipeline.architectures._mlp import Mlp
from lvm_pipeline.architectures._norms import LayerNorm
from lvm_pipeline.architectures._stack import ResidualStack, reference_of


@dataclass(frozen=True, kw_only=True)
class LinformerConfig(BackboneConfig):
    hidden_dim: int = 768
    num_layers: int = 14
    num_heads: int = option(12, "Number of attention heads.")
    num_positions: int = option(5, "Length of the windows.")
    num_sums: int = option(4, "Length that keys and values are projected down to.")
    has_one_key_value_head: bool = option(False, "Let all heads share one key and value head.")
    has_values_as_keys: bool = option(False, "Use the values as keys.")
    mlp_dim: int = option(3072, "Inner width of the MLPs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_heads", "num_positions", "num_sums", "mlp_dim"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.hidden_dim % self.num_heads == 0, "num_heads", f"a divisor of hidden_dim = {self.hidden_dim}")
        is_fewer = self.num_sums <= self.num_positions
        self.require(is_fewer, "num_sums", f"at most num_positions = {self.num_positions}")


class LinformerAttention(nn.Module):
    """Attention to sums over the context, (B, T, H) -> (B, T, H)."""

    def __init__(self, config: LinformerConfig):
        super().__init__()
        self.head_dim = config.hidden_dim // config.num_heads
        self.dropout = config.dropout
        width = self.head_dim if config.has_one_key_value_head else config.hidden_dim
        self.query = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.key = nn.Linear(config.hidden_dim, width, bias=False)
        self.key_sums = _sums(config)
        self.value = None if config.has_values_as_keys else nn.Linear(config.hidden_dim, width, bias=False)
        self.value_sums = None if config.has_values_as_keys else _sums(config)
        self.out = nn.Linear(config.hidden_dim, config.hidden_dim)

    def forward(self, states: Tensor) -> Tensor:
        queries, keys, values = self.project(states)
        dropout = self.dropout if self.training else 0.0
        is_shared = keys.shape[1] != queries.shape[1]
        attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, enable_gqa=is_shared)
        return self.out(attended.transpose(1, 2).flatten(2))

    def project(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, K, T, N), keys and values (B, K or 1, k, N)."""
        queries, keys = self.query(states), self.key(_summed(states, self.key_sums))
        values = keys
        if self.value is not None and self.value_sums is not None:
            values = self.value(_summed(states, self.value_sums))
        queries, keys, values = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (queries, keys, values)
        )
        return queries, keys, values


def _sums(config: LinformerConfig) -> nn.Parameter:
    """Return fresh weights of every position in every sum, (S, k)."""
    bound = 1 / math.sqrt(config.num_sums)
    return nn.Parameter(torch.empty(config.num_positions, config.num_sums).uniform_(-bound, bound))


def _summed(states: Tensor, weights_Sk: Tensor) -> Tensor:
    """Sum states (B, T, H) over positions, (B, k, H); before the projection, of which there are then k and not T."""
    return weights_Sk[: states.shape[1]].T @ states


def mixers(config: LinformerConfig) -> ResidualStack:
    layers = ((LinformerAttention(config), Mlp(config.hidden_dim, config.mlp_dim)) for _ in range(config.num_layers))
    return ResidualStack(layers, LayerNorm, config)


def reference_attention(attention: LinformerAttention, states: Tensor) -> Tensor:
    """Attend head by head as the paper writes it, sums after the projection; the slow twin."""
    length, width = states.shape[1], attention.head_dim
    value = attention.key if attention.value is None else attention.value
    value_sums = attention.key_sums if attention.value_sums is None else attention.value_sums
    keys = torch.einsum("btc,tk->bkc", attention.key(states), attention.key_sums[:length]).split(width, dim=-1)
    values = torch.einsum("btc,tk->bkc", value(states), value_sums[:length]).split(width, dim=-1)
    attended = []
    for head, query in enumerate(attention.query(states).split(width, dim=-1)):
        read = head % len(keys)  # the only one, where there is one for all
        scores = torch.einsum("btn,bkn->btk", query, keys[read]) / math.sqrt(width)
        attended.append(torch.einsum("btk,bkn->btn", scores.softmax(dim=-1), values[read]))
    return attention.out(torch.cat(attended, dim=-1))


ARCHITECTURE = Architecture(
    name="linformer",
    summary="Linformer, attention to a few sums of a fixed window",
    sources=("https://arxiv.org/abs/2006.04768", "https://github.com/lucidrains/linformer (0.2.3)"),
    config_class=LinformerConfig,
    presets={
        "smoke": Preset(
            config=LinformerConfig(hidden_dim=64, num_layers=2, num_heads=4, mlp_dim=256), num_params=429_660
        ),
        "small": Preset(
            config=LinformerConfig(dropout=0.5, hidden_dim=256, num_layers=6, num_heads=4, mlp_dim=1024),
            num_params=5_408_828,
        ),
        "full": Preset(config=LinformerConfig(), num_params=100_792_188),
    },
    build_model=lambda config: Backbone(config, mixers(config), max_context=config.num_positions, is_causal=False),
    reference=reference_of({LinformerAttention: reference_attention}),
    sweep={"num_sums": (1, 2, 3, 4, 5)},
    causal=False,
)
