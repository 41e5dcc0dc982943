"""The sequence mixer of Mamba-2, shared by `mamba2` and `hybrid`.

Paper: Dao and Gu, Transformers are SSMs, 2024 (arXiv 2405.21060), section 7 for the block. Code:
github.com/state-spaces/mamba e9594ce, `mamba_ssm/modules/mamba2.py`. Left out: a limit on the time step. The
authors' kernel is used where it is there (`_kernels`).

Shapes: B = batch, T = context, H = hidden width, K = heads, P = head width, G = groups, N = state
width, E = K P = inner width, C = E + 2 G N = convolved channels.

    [z | xBC | dt] = W_in u                                  in this order: E, C and K wide
    xBC = silu(conv(xBC))                                    each channel with its own four latest positions
    dt  = softplus(dt + dt_bias)                             K time steps, in float32
    S_t = exp(-dt_t exp(A_log)) S_{t-1} + dt_t B_t x_t^T     y_t = S_t^T C_t + D x_t
    out = W_out RMSNorm(y * silu(z))
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._config import BackboneConfig, option
from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.architectures._decayed_attention import decayed_attention, reference_decayed_attention
from lvm_pipeline.architectures._kernels import OptionalKernel, state_space_form
from lvm_pipeline.architectures._norms import NO_DECAY, GatedRMSNorm
from lvm_pipeline.architectures._precision import at_least_float32
from lvm_pipeline.architectures._short_convolution import CausalConv, reference_convolution

TIME_STEP_RANGE = (0.001, 0.1)  # of the fresh model, log-uniform
DECAY_RANGE = (1.0, 16.0)  # of exp(A_log) in the fresh model, uniform

MixerState = tuple[Tensor, Tensor]  # the latest inputs of the convolution (B, width - 1, C), and S (B, K, N, P)


@dataclass(frozen=True, kw_only=True)
class MixerConfig(BackboneConfig):
    """Fields of every config whose model has Mamba-2 mixers."""

    state_dim: int = option(128, "Width of the state per head (B and C).")
    head_dim: int = option(64, "Width of a head.")
    num_groups: int = option(1, "Groups of heads that share B and C.")
    expand: int = option(2, "Inner width relative to the hidden width.")
    conv_width: int = option(4, "Width of the short convolution before the state space.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("state_dim", "head_dim", "num_groups", "expand", "conv_width"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        is_divisor = self.inner_dim % self.head_dim == 0
        self.require(is_divisor, "head_dim", f"a divisor of expand * hidden_dim = {self.inner_dim}")
        is_divisor = self.num_state_heads % self.num_groups == 0
        self.require(is_divisor, "num_groups", f"a divisor of the number of heads, {self.num_state_heads}")

    @property
    def inner_dim(self) -> int:
        """E."""
        return self.expand * self.hidden_dim

    @property
    def num_state_heads(self) -> int:
        """K."""
        return self.inner_dim // self.head_dim

    @property
    def group_dim(self) -> int:
        """G N."""
        return self.num_groups * self.state_dim


class Mamba2Mixer(nn.Module):
    """The block between norm and residual, (B, T, H) -> (B, T, H)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {
        "A_log": NO_DECAY,
        "D": NO_DECAY,
        "dt_bias": NO_DECAY,
    }

    def __init__(self, config: MixerConfig, *, num_residuals: int):
        """Draw weights as the authors do; the output projection is smaller by the root of all residual additions."""
        super().__init__()
        self.config = config
        inner_dim, num_heads = config.inner_dim, config.num_state_heads
        self.split_dims = (inner_dim, inner_dim + 2 * config.group_dim, num_heads)
        self.in_proj = nn.Linear(config.hidden_dim, sum(self.split_dims), bias=False)
        self.conv = CausalConv(self.split_dims[1], config.conv_width)
        low, high = (math.log(bound) for bound in TIME_STEP_RANGE)
        time_steps = torch.empty(num_heads).uniform_(low, high).exp()
        self.dt_bias = nn.Parameter(time_steps + torch.log(-torch.expm1(-time_steps)))  # softplus gives them back
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(*DECAY_RANGE).log())
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = GatedRMSNorm(inner_dim, num_groups=config.num_groups)
        self.out_proj = nn.Linear(inner_dim, config.hidden_dim, bias=False)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(num_residuals)

    def forward(self, states: Tensor) -> Tensor:
        return self._mix(states, None, returns_state=False)[0]

    def prefill(self, states: Tensor, state: MixerState | None) -> tuple[Tensor, MixerState]:
        mixed, conv_state, memory = self._mix(states, state, returns_state=True)
        assert memory is not None
        return mixed, (conv_state, memory)

    def _mix(
        self, states: Tensor, state: MixerState | None, *, returns_state: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        conv_state, memory = (None, None) if state is None else state
        gate, to_convolve, time_step = self.project(states)
        convolved, conv_state = self.conv(to_convolve, conv_state)
        x, b, c = self.split(F.silu(convolved))
        mixed, memory = STATE_SPACE.form_for(x)(
            x,
            time_step,
            -at_least_float32(self.A_log).exp(),
            b,
            c,
            self.D,
            dt_bias=self.dt_bias,
            state=memory,
            returns_state=returns_state,
        )
        return self.project_out(mixed, gate), conv_state, memory

    def project(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z (B, T, E), the input of the convolution (B, T, C) and dt before its bias (B, T, K)."""
        gate, to_convolve, time_step = self.in_proj(states).split(self.split_dims, -1)
        return gate, to_convolve, time_step

    def split(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (B, T, K, P), B and C (B, T, G, N)."""
        config = self.config
        x, b, c = convolved.split((config.inner_dim, config.group_dim, config.group_dim), -1)
        groups = (config.num_groups, config.state_dim)
        return x.unflatten(-1, (-1, config.head_dim)), b.unflatten(-1, groups), c.unflatten(-1, groups)

    def project_out(self, mixed: Tensor, gate: Tensor) -> Tensor:
        """Gate, norm and projection: y (B, T, K, P), z (B, T, E) -> (B, T, H)."""
        return self.out_proj(self.norm(mixed.flatten(-2), gate))


def torch_state_space(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    dt_bias: Tensor,
    state: Tensor | None = None,
    returns_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Run the state space model in PyTorch (`STATE_SPACE` also has a kernel); names follow the paper.

    Args:
        x: (B, T, K, P).
        dt: Time steps before bias and softplus, (B, T, K).
        A: Below 0, (K,), like `D` and `dt_bias`.
        B: (B, T, G, N), like `C`.
        C: (B, T, G, N).
        D: (K,).
        dt_bias: (K,).
        state: S before the first position, (B, K, N, P); zero if left out.
        returns_state: Whether to return the state after the last position (else None) beside y (B, T, K, P).
    """
    dt = F.softplus(at_least_float32(dt) + dt_bias)
    y, state = decayed_attention(C, B, x, log_decay=dt * A, write=dt, state=state, returns_state=returns_state)
    return torch.addcmul(y, x, D[:, None]), state


def _example(device: torch.device) -> dict[str, Tensor]:
    """Draw inputs longer than two chunks, with heads and states as wide as in the preset `full`."""
    batch, length, heads, width, state_dim = 2, 150, 4, 64, 128
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "x": (batch, length, heads, width),
        "dt": (batch, length, heads),
        "A": (heads,),
        "B": (batch, length, 1, state_dim),
        "C": (batch, length, 1, state_dim),
        "D": (heads,),
        "dt_bias": (heads,),
        "state": (batch, heads, state_dim, width),
    }
    drawn = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    return {**drawn, "A": -drawn["A"].exp(), "dt_bias": drawn["dt_bias"] - 3}


STATE_SPACE = OptionalKernel(
    name="mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined",
    adapt=state_space_form,
    torch_form=torch_state_space,
    example=_example,
)


def reference_selective_state_space(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, dt_bias: Tensor
) -> Tensor:
    """Follow the recurrence one position at a time; the slow twin."""
    dt = F.softplus(dt + dt_bias)
    return reference_decayed_attention(C, B, x, log_decay=dt * A, write=dt) + D[:, None] * x


def reference_mixer(mixer: Mamba2Mixer, states: Tensor) -> Tensor:
    """Mix by plain sums and the recurrence, (B, T, H) -> (B, T, H); the slow twin."""
    gate, to_convolve, time_step = mixer.project(states)
    x, b, c = mixer.split(F.silu(reference_convolution(mixer.conv, to_convolve)))
    decay = -mixer.A_log.exp()
    mixed = reference_selective_state_space(x, time_step, decay, b, c, mixer.D, dt_bias=mixer.dt_bias)
    return mixer.project_out(mixed, gate)
