"""RetNet: retention, which trains in parallel and predicts with a state of fixed size.

Paper: Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023
(arXiv 2307.08621), equations 5 to 8. Code: github.com/microsoft/torchscale 4d1e0e8,
`torchscale/architecture/retnet.py`. Left out: embedding and head, and the division of each row of scores
by the sum of its magnitudes, which the norm of each head undoes (1e-5 of the output).

Shapes: B = batch, T = context in concepts, H = hidden width, K = heads, N = H / K = key width,
P = value_dim / K = value width.

    q_t = R_t W_q x_t    k_t = R_t W_k x_t / sqrt(N)    v_t = W_v x_t        R_t turns pairs of neighbours (`_rotary`)
    y_t = sum_{s<=t} gamma_h^(t-s) (q_t . k_s) v_s                           gamma_h = 1 - 2^(-5-h), h from 0
    out = W_o (silu(W_g x) * RMSNorm of each head(y))                        a norm without gains

    u = u + out(RMSNorm(u)),  u = u + W_2 (silu(W_1 z) * W_3 z) with z = RMSNorm(u),  a last RMSNorm after L such pairs

The sum over s is a T x T matrix within chunks and a recurrence between them (`_decayed_attention`). `full`
has the paper's value width of 2 H; `published` is torchscale's default, whose three heads do not divide
its value width, with four.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import Architecture, Preset
from lvm_pipeline.architectures._decayed_attention import decayed_attention, reference_decayed_attention
from lvm_pipeline.architectures._kernels import OptionalKernel, retention_form
from lvm_pipeline.architectures._mlp import SwiGlu
from lvm_pipeline.architectures._norms import RMSNorm, rms_norm
from lvm_pipeline.architectures._rotary import angles, rotate_neighbours
from lvm_pipeline.architectures._stack import RecurrentStack, reference_of

EPS = 1e-6
LOWEST_FREQUENCY = 1e-4  # of the rotation; the highest is 1, those between are in geometric progression
PROJECTION_GAIN = 2**-2.5  # of the fresh weights before retention

RetentionState = tuple[int, Tensor]  # positions seen, and the sum of k v^T, faded (B, K, N, P)


@dataclass(frozen=True, kw_only=True)
class RetNetConfig(BackboneConfig):
    hidden_dim: int = 768
    num_layers: int = 15
    num_heads: int = option(3, "Number of retention heads.")
    value_dim: int = option(1536, "Width of the values of all heads together.")
    mlp_dim: int = option(1536, "Inner width of the MLPs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_heads", "value_dim", "mlp_dim"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("hidden_dim", "value_dim"):
            width = getattr(self, name)
            self.require(width % self.num_heads == 0, "num_heads", f"a divisor of {name} = {width}")
        key_dim = self.hidden_dim // self.num_heads
        self.require(key_dim % 2 == 0, "num_heads", f"such that hidden_dim / num_heads is even, not {key_dim}")


class Retention(nn.Module):
    """Multi-scale retention, (B, T, H) -> (B, T, H)."""

    def __init__(self, config: RetNetConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.widths = (config.hidden_dim, config.hidden_dim, config.value_dim, config.value_dim)
        self.qkvg = nn.Linear(config.hidden_dim, sum(self.widths), bias=False)
        self.out = nn.Linear(config.value_dim, config.hidden_dim, bias=False)
        for weight in self.qkvg.weight.split(self.widths):
            nn.init.xavier_uniform_(weight, gain=PROJECTION_GAIN)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, states: Tensor) -> Tensor:
        queries, keys, values, gate = self.project(states, 0)
        retained, _ = RETENTION.form_for(values)(queries, keys, values)
        return self.project_out(retained, gate)

    def prefill(self, states: Tensor, state: RetentionState | None) -> tuple[Tensor, RetentionState]:
        num_seen, memory = (0, None) if state is None else state
        queries, keys, values, gate = self.project(states, num_seen)
        form = RETENTION.form_for(values)
        retained, memory = form(queries, keys, values, state=memory, returns_state=True)
        assert memory is not None
        return self.project_out(retained, gate), (num_seen + states.shape[1], memory)

    def project(self, states: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return rotated queries and keys (B, T, K, N), values (B, T, K, P) and gate (B, T, K P)."""
        queries, keys, values, gate = self.qkvg(states).split(self.widths, dim=-1)
        queries, keys, values = (part.unflatten(-1, (self.num_heads, -1)) for part in (queries, keys, values))
        key_dim = keys.shape[-1]
        turn = angles(states.shape[1], pair_frequencies(key_dim // 2, states.device), start=start)
        queries, keys = (rotate_neighbours(part.transpose(1, 2), turn).transpose(1, 2) for part in (queries, keys))
        return queries, keys / math.sqrt(key_dim), values, gate

    def project_out(self, retained: Tensor, gate: Tensor) -> Tensor:
        """Norm of each head, gate and projection: y (B, T, K, P), gate (B, T, K P) -> (B, T, H)."""
        return self.out(F.silu(gate) * rms_norm(retained, eps=EPS).flatten(-2).to(gate.dtype))


def pair_frequencies(num_pairs: int, device: torch.device) -> Tensor:
    """Return frequencies from 1 down to the lowest, both included, in float64."""
    return LOWEST_FREQUENCY ** torch.linspace(0, 1, num_pairs, dtype=torch.float64, device=device)


def log_gamma(num_heads: int, device: torch.device) -> Tensor:
    """Return log(1 - 2^(-5-h)) for the heads h, in float64."""
    return torch.log1p(-(2.0 ** (-5 - torch.arange(num_heads, dtype=torch.float64, device=device))))


def torch_retention(
    queries: Tensor, keys: Tensor, values: Tensor, *, state: Tensor | None = None, returns_state: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Retain in PyTorch (`RETENTION` also has a kernel).

    Args:
        queries: Rotated, (B, T, K, N).
        keys: Rotated and scaled, (B, T, K, N).
        values: (B, T, K, P).
        state: Before the first position, (B, K, N, P); zero if left out.
        returns_state: Whether to return the state after the last position (else None) beside y (B, T, K, P).
    """
    log_decay = log_gamma(values.shape[2], values.device).expand(1, values.shape[1], -1)
    return decayed_attention(queries, keys, values, log_decay=log_decay, state=state, returns_state=returns_state)


def _example(device: torch.device) -> dict[str, Tensor]:
    """Draw inputs longer than two chunks, with heads as wide as in the preset `full`."""
    batch, length, heads, key_dim, value_dim = 2, 150, 3, 256, 512
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "queries": (batch, length, heads, key_dim),
        "keys": (batch, length, heads, key_dim),
        "values": (batch, length, heads, value_dim),
        "state": (batch, heads, key_dim, value_dim),
    }
    drawn = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    return {**drawn, "keys": drawn["keys"] / math.sqrt(key_dim)}


RETENTION = OptionalKernel(
    name="fla.ops.retention.chunk_retention", adapt=retention_form, torch_form=torch_retention, example=_example
)


def mixers(config: RetNetConfig) -> RecurrentStack:
    layers = ((Retention(config), SwiGlu(config.hidden_dim, config.mlp_dim)) for _ in range(config.num_layers))
    return RecurrentStack(layers, partial(RMSNorm, eps=EPS), config)


def reference_retention(retention: Retention, states: Tensor) -> Tensor:
    """Retain one position at a time, (B, T, H) -> (B, T, H); the slow twin."""
    queries, keys, values, gate = retention.project(states, 0)
    gammas = [1 - 2.0 ** (-5 - head) for head in range(retention.num_heads)]
    log_decay = states.new_tensor(gammas).log().expand(1, states.shape[1], -1)
    return retention.project_out(reference_decayed_attention(queries, keys, values, log_decay=log_decay), gate)


ARCHITECTURE = Architecture(
    name="retnet",
    summary="RetNet, retention with a state of fixed size",
    sources=("https://arxiv.org/abs/2307.08621", "https://github.com/microsoft/torchscale (4d1e0e8)"),
    config_class=RetNetConfig,
    presets={
        "smoke": Preset(
            config=RetNetConfig(hidden_dim=96, num_layers=2, value_dim=192, mlp_dim=192), num_params=645_772
        ),
        "small": Preset(
            config=RetNetConfig(dropout=0.5, hidden_dim=240, num_layers=6, value_dim=480, mlp_dim=480),
            num_params=5_486_956,
        ),
        "full": Preset(config=RetNetConfig(), num_params=125_478_988),
        "published": Preset(
            config=RetNetConfig(num_layers=12, num_heads=4, value_dim=1280, mlp_dim=1280), num_params=86_545_996
        ),
    },
    build_model=lambda config: Backbone(config, mixers(config)),
    reference=reference_of({Retention: reference_retention}),
    sweep={"num_heads": (2, 3, 4, 6), "num_layers": (12, 15)},
    gains_from_compile=True,
)
