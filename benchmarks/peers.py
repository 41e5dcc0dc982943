"""The modules of transformers that do the same work as ours, as mixers for our backbone.

So all but the mixers is the same code on both sides: ways in and out, residual head, loss, optimiser. Widths and layers
are taken from our config. `rescale_every=0` keeps RWKV from halving its weights in evaluation, and no peer keeps a
cache of what it has read, which ours does not either.

Transformers pads a context to a multiple of Mamba-2's `chunk_size`, by default 256, however short it is. The chunk that
fits is the smallest power of two not below the length of the context, up to 64: the best that a user could choose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import transformers  # pyright: ignore[reportMissingImports]  # comes with the extra `encoders`
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures.distilgpt2 import DistilGpt2Config
from lvm_pipeline.architectures.hybrid import HybridConfig
from lvm_pipeline.architectures.mamba2 import Mamba2Config
from lvm_pipeline.architectures.rwkv4 import Rwkv4Config

DEFAULT_CHUNK = 256
LARGEST_FITTING_CHUNK = 64

Build = Callable[[Any, int], nn.Module]  # config and chunk size -> transformers' model


class TheirMixers(nn.Module):
    """A model of transformers on given states, (B, T, H) -> (B, T, H)."""

    def __init__(self, model: nn.Module):
        """Wrap it."""
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Mix along the context."""
        mixed = self.model(inputs_embeds=states, use_cache=False).last_hidden_state
        return mixed if at is None else mixed[at]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What transformers offers beside one of our architectures.

    `goal` is the ratio that ours is to reach at context 5 in training, beside the peer as it comes; `has_chunks` says
    that its chunk size matters.
    """

    name: str
    build: Build
    goal: float | None
    has_chunks: bool = False

    def model(self, config: Any, *, chunk: int) -> LatentVectorModel:
        """Build our backbone around their mixers."""
        return Backbone(config, TheirMixers(self.build(config, chunk)))


def fitting_chunk(length: int) -> int:
    """Return the chunk size that fits a context best."""
    return min(LARGEST_FITTING_CHUNK, 1 << (length - 1).bit_length())


def _mamba2(config: Mamba2Config, chunk: int) -> nn.Module:
    return transformers.Mamba2Model(
        transformers.Mamba2Config(
            vocab_size=1,
            hidden_size=config.hidden_dim,
            num_hidden_layers=config.num_layers,
            num_heads=config.num_state_heads,
            head_dim=config.head_dim,
            state_size=config.state_dim,
            n_groups=config.num_groups,
            expand=config.expand,
            conv_kernel=config.conv_width,
            chunk_size=chunk,
        )
    )


def _gpt2(config: DistilGpt2Config, chunk: int) -> nn.Module:
    return transformers.GPT2Model(
        transformers.GPT2Config(
            vocab_size=1,
            n_positions=config.num_positions,
            n_embd=config.hidden_dim,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            bos_token_id=None,
            eos_token_id=None,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
        )
    )


def _bamba(config: HybridConfig, chunk: int) -> nn.Module:
    return transformers.BambaModel(
        transformers.BambaConfig(
            vocab_size=1,
            hidden_size=config.hidden_dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_key_value_heads,
            attn_layer_indices=[layer for layer in range(config.num_layers) if config.is_attention(layer)],
            mamba_n_heads=config.num_state_heads,
            mamba_d_head=config.head_dim,
            mamba_d_state=config.state_dim,
            mamba_n_groups=config.num_groups,
            mamba_expand=config.expand,
            mamba_d_conv=config.conv_width,
            mamba_chunk_size=chunk,
        )
    )


def _rwkv(config: Rwkv4Config, chunk: int) -> nn.Module:
    return transformers.RwkvModel(
        transformers.RwkvConfig(
            vocab_size=1,
            hidden_size=config.hidden_dim,
            num_hidden_layers=config.num_layers,
            intermediate_size=config.mlp_dim,
            rescale_every=0,
        )
    )


PEERS: Mapping[str, Peer] = {
    "mamba2": Peer(name="Mamba2Model", build=_mamba2, goal=3.0, has_chunks=True),
    "rwkv4": Peer(name="RwkvModel", build=_rwkv, goal=3.0),
    "distilgpt2": Peer(name="GPT2Model", build=_gpt2, goal=1.0),
    "hybrid": Peer(name="BambaModel", build=_bamba, goal=None, has_chunks=True),
}
