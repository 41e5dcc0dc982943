"""Hybrid: five Mamba-2 layers, then one of attention, each followed by an MLP.

Papers: Waleffe et al., An Empirical Study of Mamba-based Language Models, 2024 (arXiv 2406.07887) for
the ratio; Lieber et al., Jamba, 2024 (arXiv 2403.19887) for attention without positions. Code:
github.com/huggingface/transformers 5.23.0, `models/granitemoehybrid` without experts (no positions) and
`models/bamba` (rotation of half of each head). Left out: experts, multipliers of embedding, residual and
logits.

Shapes: B = batch, T = context in concepts, H = hidden width, L = layers, K = heads, N = head width.

    u = u + mixer(RMSNorm(u))        Mamba-2 (`_mamba2_mixer`), in every (ratio + 1)th layer attention (`_attention`)
    u = u + W_2 (silu(W_g v) * W_1 v),  v = RMSNorm(u)
    a last RMSNorm after L such pairs; the sum u stays in float32

The Mamba-2 layers carry the order of the context, so attention needs no positions; `rotary_fraction` of
each head's channels is rotated by position where it is above zero (`_rotary`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._attention import CausalSelfAttention, reference_attention
from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import option
from lvm_pipeline.architectures._contract import Architecture, Preset
from lvm_pipeline.architectures._mamba2_mixer import Mamba2Mixer, MixerConfig, reference_mixer
from lvm_pipeline.architectures._mlp import SwiGlu
from lvm_pipeline.architectures._norms import RMSNorm
from lvm_pipeline.architectures._rotary import angles, frequencies, rotate_halves
from lvm_pipeline.architectures._stack import RecurrentStack, reference_of


@dataclass(frozen=True, kw_only=True)
class HybridConfig(MixerConfig):
    """Layers of Mamba-2, and one of attention after every `mamba_per_attention` of them."""

    hidden_dim: int = 768
    num_layers: int = 18
    mamba_per_attention: int = option(5, "Mamba-2 layers per attention layer.")
    num_heads: int = option(12, "Number of attention heads.")
    num_key_value_heads: int = option(12, "Number of key and value heads of the attention.")
    rotary_fraction: float = option(0.0, "Fraction of each attention head with rotary positions.")
    mlp_dim: int = option(2048, "Inner width of the MLPs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mamba_per_attention", "num_heads", "num_key_value_heads", "mlp_dim"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.hidden_dim % self.num_heads == 0, "num_heads", f"a divisor of hidden_dim = {self.hidden_dim}")
        is_divisor = self.num_heads % self.num_key_value_heads == 0
        self.require(is_divisor, "num_key_value_heads", f"a divisor of num_heads = {self.num_heads}")
        has_attention = self.num_layers > self.mamba_per_attention
        self.require(has_attention, "mamba_per_attention", f"below num_layers = {self.num_layers}")
        is_even = (
            0 <= self.rotary_fraction <= 1
            and self.rotary_dim == self.rotary_fraction * self.hidden_dim / self.num_heads
        )
        self.require(is_even, "rotary_fraction", "a share, 0 to 1, that is an even number of each head's channels")

    @property
    def rotary_dim(self) -> int:
        """How many channels of each head are rotated."""
        return 2 * int(self.rotary_fraction * self.hidden_dim / self.num_heads / 2)

    def is_attention(self, layer: int) -> bool:
        return (layer + 1) % (self.mamba_per_attention + 1) == 0


def _rotation(config: HybridConfig) -> Callable[[Tensor, int], Tensor] | None:
    if config.rotary_dim == 0:
        return None

    def rotate(states: Tensor, start: int) -> Tensor:
        pair_frequencies = frequencies(config.rotary_dim // 2, device=states.device)
        return rotate_halves(states, angles(states.shape[2], pair_frequencies, start=start))

    return rotate


def _mixer(config: HybridConfig, layer: int) -> nn.Module:
    if not config.is_attention(layer):
        return Mamba2Mixer(config, num_residuals=2 * config.num_layers)
    return CausalSelfAttention(
        config.hidden_dim,
        num_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        has_bias=False,
        rotate=_rotation(config),
        dropout=config.dropout,
    )


@torch.no_grad()
def mixers(config: HybridConfig) -> RecurrentStack:
    """Build the L pairs and the last norm; what enters the residual starts smaller by the root of their number."""
    layers = [(_mixer(config, layer), SwiGlu(config.hidden_dim, config.mlp_dim)) for layer in range(config.num_layers)]
    for mixer, mlp in layers:
        mlp.narrow.weight /= math.sqrt(2 * config.num_layers)
        if isinstance(mixer, CausalSelfAttention):
            mixer.out.weight /= math.sqrt(2 * config.num_layers)
    return RecurrentStack(layers, RMSNorm, config)


ARCHITECTURE = Architecture(
    name="hybrid",
    summary="Hybrid of Mamba-2 and attention, five to one",
    sources=(
        "https://arxiv.org/abs/2406.07887",
        "https://github.com/huggingface/transformers (5.23.0, granitemoehybrid and bamba)",
    ),
    config_class=HybridConfig,
    presets={
        "smoke": Preset(
            config=HybridConfig(
                hidden_dim=64, num_layers=6, state_dim=32, head_dim=16, num_heads=4, num_key_value_heads=2, mlp_dim=128
            ),
            num_params=641_924,
        ),
        "small": Preset(
            config=HybridConfig(
                dropout=0.5,
                hidden_dim=192,
                num_layers=6,
                state_dim=64,
                head_dim=32,
                num_heads=6,
                num_key_value_heads=6,
                mlp_dim=512,
            ),
            num_params=3_734_016,
        ),
        "full": Preset(config=HybridConfig(), num_params=150_101_380),
    },
    build_model=lambda config: Backbone(config, mixers(config)),
    reference=reference_of({Mamba2Mixer: reference_mixer, CausalSelfAttention: reference_attention}),
    sweep={"mamba_per_attention": (1, 2, 3, 4, 5), "rotary_fraction": (0.0, 0.5)},
)
