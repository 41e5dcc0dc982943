"""The causal decoder of Meta's Large Concept Models: Base-LCM's whole body, the two-tower's context encoder.

Paper: LCM team, Large Concept Models, 2024 (arXiv 2412.08821). Code:
github.com/facebookresearch/large_concept_model fd7db80, `lcm/nn/transformer`, on fairseq2 0.3.0.

Shapes: B = batch, T = context in concepts, H = hidden width, K = heads, F = inner width.

    u = u + attention(RMSNorm(u))                              neighbours rotated by position (`_rotary`), biases
    u = u + W_2 (silu(W_g v + b_g) * (W_1 v + b_1)) + b_2      v = RMSNorm(u), F = 2/3 of 4 H, up to whole 256s
    a last RMSNorm after the layers; the sum u stays in float32
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from lvm_pipeline.architectures._attention import CausalSelfAttention, reference_attention
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._mlp import SwiGlu
from lvm_pipeline.architectures._norms import RMSNorm
from lvm_pipeline.architectures._rotary import angles, frequencies, rotate_neighbours
from lvm_pipeline.architectures._stack import RecurrentStack, reference_stack

INNER_MULTIPLE = 256
PROJECTION_GAIN = 2**-0.5  # of the fresh queries, keys and values


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(BackboneConfig):
    hidden_dim: int = 2048
    num_heads: int = option(16, "Number of attention heads.")
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.num_heads >= 1, "num_heads", "at least 1")
        self.require(self.hidden_dim % self.num_heads == 0, "num_heads", f"a divisor of hidden_dim = {self.hidden_dim}")
        head_dim = self.hidden_dim // self.num_heads
        self.require(head_dim % 2 == 0, "num_heads", f"such that hidden_dim / num_heads is even, not {head_dim}")

    @property
    def mlp_dim(self) -> int:
        """Inner width of every MLP (F)."""
        return INNER_MULTIPLE * math.ceil(int(4 * self.hidden_dim * 2 / 3) / INNER_MULTIPLE)


def rotate(states: Tensor, start: int) -> Tensor:
    """Rotate queries or keys (B, K, T, N) by their positions from `start` on."""
    turn = angles(states.shape[2], frequencies(states.shape[-1] // 2, device=states.device), start=start)
    return rotate_neighbours(states, turn)


def self_attention(config: DecoderConfig) -> CausalSelfAttention:
    """Build attention and draw its weights as the authors do."""
    attention = CausalSelfAttention(
        config.hidden_dim,
        num_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        has_bias=True,
        rotate=rotate,
    )
    draw_projection(attention.qkv, gain=PROJECTION_GAIN)
    draw_projection(attention.out)
    return attention


def draw_projection(linear: nn.Linear, *, gain: float = 1.0) -> None:
    """Draw one or more square projections, stacked in one matrix, as the authors do."""
    for weight in linear.weight.split(linear.in_features):
        nn.init.xavier_uniform_(weight, gain=gain)
    nn.init.zeros_(linear.bias)


def decoder(config: DecoderConfig, num_layers: int) -> RecurrentStack:
    """Build the layers and the last norm."""
    layers = (
        (self_attention(config), SwiGlu(config.hidden_dim, config.mlp_dim, has_bias=True)) for _ in range(num_layers)
    )
    return RecurrentStack(layers, RMSNorm, config)


def reference_decoder(stack: nn.Module, states: Tensor) -> Tensor:
    """Run the layers with plain attention, (B, T, H) -> (B, T, H)."""
    return reference_stack(stack, states, {CausalSelfAttention: reference_attention})
