"""The two-tower model's denoiser: one noisy vector a position, which reads the encoded context.

Papers: Peebles and Xie, DiT, 2022 (arXiv 2212.09748) for the modulated norms and the embedding of steps;
LCM team, 2024 (arXiv 2412.08821), section 2.3.4. Code: github.com/facebookresearch/large_concept_model
fd7db80, `lcm/nn/denoisers` and `lcm/nn/timestep_encoder.py`.

Shapes: B = batch, T = positions, S = concepts in memory and one before them, D = vector width, H = hidden
width, K = heads, N = head width.

    e  = W_2 silu(W_1 [cos(n w), sin(n w)])                    n the step, 128 frequencies w from 1 to nearly 1e-4
    shift, scale, gate = a ninth each of W silu(e)             for each of the three below; zero in the fresh model
    u  = u + gate * W_out W_v m                                m = (1 + scale) RMSNorm(u) + shift
    u  = u + gate * attention(m; 0, c_1 .. c_t)                c the encoded context behind one vector of zeros
    u  = u + gate * W_2 (silu(W_g m) * W_1 m)

The first of the three is attention restricted to the position itself. Its weights are all one, so queries
and keys have no effect; the authors keep their projections, and `has_idle_projections` does. Without its
context a position reads the vector of zeros alone, whose value is the bias.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._attention import causal_attention
from lvm_pipeline.architectures._lcm_decoder import PROJECTION_GAIN, DecoderConfig, draw_projection
from lvm_pipeline.architectures._mlp import SwiGlu
from lvm_pipeline.architectures._norms import RMSNorm
from lvm_pipeline.architectures._precision import at_least_float32
from lvm_pipeline.architectures._rotary import frequencies

NUM_FREQUENCIES = 128
START_DEVIATION = 0.02  # of the fresh embedding of steps

Memory = list[tuple[Tensor, Tensor]]  # of each layer keys and values, (B, K, S, N) each


def embedded_steps(steps: Tensor) -> Tensor:
    """Return cosines and sines of steps (B, T), (B, T, 256), in float32."""
    turns = steps[..., None].float() * frequencies(NUM_FREQUENCIES, device=steps.device).float()
    return torch.cat([turns.cos(), turns.sin()], dim=-1)


class StepEmbedding(nn.Module):
    """Embedding of the noise level: steps (B, T) -> (B, T, H)."""

    def __init__(self, width: int):
        """Draw weights as the authors do."""
        super().__init__()
        self.widen = nn.Linear(2 * NUM_FREQUENCIES, width)
        self.mix = nn.Linear(width, width)
        for linear in (self.widen, self.mix):
            nn.init.normal_(linear.weight, std=START_DEVIATION)
            nn.init.zeros_(linear.bias)

    def forward(self, steps: Tensor) -> Tensor:
        return self.mix(F.silu(self.widen(embedded_steps(steps).to(self.widen.weight.dtype))))


class PointwiseAttention(nn.Module):
    """Attention of a position to itself, (B, T, H) -> (B, T, H)."""

    def __init__(self, width: int, *, has_idle_projections: bool):
        super().__init__()
        self.idle = nn.Linear(width, 2 * width) if has_idle_projections else None
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        draw_projection(self.value, gain=PROJECTION_GAIN)
        draw_projection(self.out)

    def forward(self, states: Tensor) -> Tensor:
        return self.out(self.value(states))


class CrossAttention(nn.Module):
    """Attention to the encoded context."""

    def __init__(self, width: int, *, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        for linear in (self.query, self.key_value):
            draw_projection(linear, gain=PROJECTION_GAIN)
        draw_projection(self.out)

    def read(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, K, S, N) of encoded concepts (B, S, H)."""
        keys, values = (self.split(part) for part in self.key_value(encoded).chunk(2, dim=-1))
        return keys, values

    def split(self, states: Tensor) -> Tensor:
        """Split into heads, (B, T, H) -> (B, K, T, N)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, states: Tensor, memory: tuple[Tensor, Tensor], is_without: Tensor | None) -> Tensor:
        """Attend from the last T positions (B, T, H) to the memory up to each; without context where `is_without`."""
        keys, values = memory
        attended = causal_attention(self.split(self.query(states)), keys, values)
        if is_without is not None:
            attended = torch.where(is_without[:, None, :, None], values[:, :, :1], attended)
        return self.out(attended.transpose(1, 2).flatten(2))


class DenoiserLayer(nn.Module):
    """The position itself, its context, an MLP; each modulated by the step."""

    def __init__(self, config: DecoderConfig, *, has_idle_projections: bool):
        """Start with gates of zero, as the identity."""
        super().__init__()
        width = config.hidden_dim
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(3))
        self.itself = PointwiseAttention(width, has_idle_projections=has_idle_projections)
        self.context = CrossAttention(width, num_heads=config.num_heads)
        self.mlp = SwiGlu(width, config.mlp_dim, has_bias=True)
        self.modulation = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, states: Tensor, embedding: Tensor, memory: tuple[Tensor, Tensor], is_without: Tensor | None
    ) -> Tensor:
        """Denoise states (B, T, H) at steps embedded as (B, T, H), or (1, 1, H) where all are at the same."""
        itself, context, mlp = self.modulation(F.silu(embedding)).chunk(3, dim=-1)
        states = states + self.gated(itself, self.itself(self.read(0, states, itself)))
        states = states + self.gated(context, self.context(self.read(1, states, context), memory, is_without))
        return states + self.gated(mlp, self.mlp(self.read(2, states, mlp)))

    def read(self, number: int, states: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, _ = modulation.chunk(3, dim=-1)
        return self.norms[number](states) * (1 + scale) + shift

    def gated(self, modulation: Tensor, found: Tensor) -> Tensor:
        return modulation.chunk(3, dim=-1)[2] * self.dropout(found)


class Denoiser(nn.Module):
    """Noisy vectors (B, T, D) -> states (B, T, H), from which the clean vectors are projected."""

    def __init__(self, config: DecoderConfig, *, num_layers: int, has_idle_projections: bool):
        super().__init__()
        self.input_projection = nn.Linear(config.vector_dim, config.hidden_dim)
        self.embed_step = StepEmbedding(config.hidden_dim)
        self.layers = nn.ModuleList(
            DenoiserLayer(config, has_idle_projections=has_idle_projections) for _ in range(num_layers)
        )
        self.norm = RMSNorm(config.hidden_dim)

    def read(self, encoded: Tensor, memory: Memory | None = None) -> Memory:
        """Return keys and values of the layers: those of `memory`, then those of encoded concepts (B, T, H)."""
        if memory is None:
            encoded = torch.cat([torch.zeros_like(encoded[:, :1]), encoded], dim=1)
        read = [layer.context.read(encoded) for layer in self._layers()]
        if memory is None:
            return read
        return [
            (torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2))
            for (old_keys, old_values), (keys, values) in zip(memory, read, strict=True)
        ]

    def forward(self, noisy: Tensor, steps: Tensor, memory: Memory, is_without: Tensor | None = None) -> Tensor:
        """Denoise one vector for each of the last T positions of the memory, (B, T, D), to states (B, T, H).

        `steps` are the noise levels, (B, T), or (1, 1) for all; `memory` is what `read` returned; positions where
        `is_without` (B, T) is True do not read their context.
        """
        states, embedding = at_least_float32(self.input_projection(noisy)), self.embed_step(steps)
        for layer, layer_memory in zip(self._layers(), memory, strict=True):
            states = layer(states, embedding, layer_memory, is_without)
        return self.norm(states)

    def _layers(self) -> list[DenoiserLayer]:
        return [layer for layer in self.layers if isinstance(layer, DenoiserLayer)]


def context_free(memory: Memory) -> Memory:
    """Return the memory without any concept: the vector of zeros alone."""
    return [(keys[:, :, :1], values[:, :, :1]) for keys, values in memory]


def repeated(memory: Memory, num_times: int) -> Memory:
    """Return the memory of a batch that repeats the same contexts."""
    return [(keys.repeat(num_times, 1, 1, 1), values.repeat(num_times, 1, 1, 1)) for keys, values in memory]


def reference_denoiser(denoiser: Denoiser, noisy: Tensor, step: int, read: Tensor) -> Tensor:
    """Denoise one vector of each context, (B, D) -> (B, H), by the formulas above; the slow twin.

    `read` is the vector of zeros and the encoded concepts, (B, S, H).
    """
    states = denoiser.input_projection(noisy)
    embedding = denoiser.embed_step(torch.full((len(noisy), 1), step))[:, 0]
    for layer in denoiser.layers:
        assert isinstance(layer, DenoiserLayer)
        ninths = layer.modulation(F.silu(embedding)).unflatten(-1, (3, 3, -1))
        inner = (layer.itself, lambda m, layer=layer: reference_cross_attention(layer.context, m, read), layer.mlp)
        for number in range(3):
            shift, scale, gate = ninths[:, number].unbind(1)
            states = states + gate * inner[number](layer.norms[number](states) * (1 + scale) + shift)
    return denoiser.norm(states)


def reference_cross_attention(attention: CrossAttention, states: Tensor, read: Tensor) -> Tensor:
    """Attend from (B, H) to all of (B, S, H), a head at a time."""
    queries = attention.query(states).chunk(attention.num_heads, dim=-1)
    keys, values = (part.chunk(attention.num_heads, dim=-1) for part in attention.key_value(read).chunk(2, dim=-1))
    heads = []
    for head in range(attention.num_heads):
        scores = (keys[head] @ queries[head][:, :, None]) / math.sqrt(keys[head].shape[-1])
        heads.append((scores.softmax(dim=1) * values[head]).sum(dim=1))
    return attention.out(torch.cat(heads, dim=-1))
