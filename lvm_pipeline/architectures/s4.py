"""S4: a structured state space per channel, in its diagonal form S4D.

Papers: Gu, Goel and Re, Efficiently Modeling Long Sequences with Structured State Spaces, 2021 (arXiv
2111.00396); Gu et al., On the Parameterization and Initialization of Diagonal State Space Models, 2022
(arXiv 2206.11893) for S4D-Lin with zero-order hold. Code: github.com/state-spaces/s4 e757cef,
`models/s4/s4d.py`; MLPs between as in its language model. Left out: the low-rank part of S4's matrix with
its Cauchy kernel, and the second direction, which would see the target.

Shapes: B = batch, T = context in concepts, H = hidden width, M = state_dim / 2 conjugate pairs a channel.

    A = -exp(log_A_real) + i A_imag,  dt = exp(log_dt)                 of each channel, M values and one
    s_t = a s_{t-1} + b u_t,  a = exp(dt A),  b = (a - 1) / A          complex, M wide
    y_t = 2 Re(C . s_t) + D u_t  =  sum_l kernel_l u_{t-l} + D u_t,  kernel_l = 2 Re(C b . a^l)
    out = GLU(W gelu(y) + b)

    u = u + out(LayerNorm(u)),  u = u + W_2 gelu(W_1 LayerNorm(u) + b_1) + b_2,  a last LayerNorm after L such pairs

The sum over l is a Toeplitz product or an FFT (`_long_convolution`); with state, products in pieces. All of
it stays in float32 (complex64) under autocast.
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
from lvm_pipeline.architectures._long_convolution import LONGEST_PRODUCT, causal_convolution
from lvm_pipeline.architectures._mlp import Mlp
from lvm_pipeline.architectures._norms import NO_DECAY, LayerNorm
from lvm_pipeline.architectures._precision import at_least_float32, without_autocast
from lvm_pipeline.architectures._stack import RecurrentStack, reference_of

TIME_STEP_RANGE = (0.001, 0.1)  # of the fresh model, log-uniform
START_DECAY = 0.5  # -Re A of the fresh model

OF_THE_KERNEL = OptimiserSetting(weight_decay=False, learning_rate_factor=0.5)  # 1e-3 where the others have 2e-3


@dataclass(frozen=True, kw_only=True)
class S4Config(BackboneConfig):
    hidden_dim: int = 768
    num_layers: int = 16
    state_dim: int = option(64, "Size of the state per channel, in conjugate pairs.")
    mlp_dim: int = option(3072, "Inner width of the MLPs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.state_dim >= 2 and self.state_dim % 2 == 0, "state_dim", "an even number, at least 2")
        self.require(self.mlp_dim >= 1, "mlp_dim", "at least 1")


class DiagonalStateSpace(nn.Module):
    """The state space of every channel, (B, T, H) -> (B, T, H); the state is complex, (B, H, M)."""

    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {
        "log_dt": OF_THE_KERNEL,
        "log_A_real": OF_THE_KERNEL,
        "A_imag": OF_THE_KERNEL,
        "C": OF_THE_KERNEL,
        "D": NO_DECAY,
    }

    def __init__(self, width: int, state_dim: int):
        """Draw time steps; start from equal decays and frequencies pi m (S4D-Lin)."""
        super().__init__()
        num_pairs = state_dim // 2
        low, high = (math.log(bound) for bound in TIME_STEP_RANGE)
        self.log_dt = nn.Parameter(torch.empty(width).uniform_(low, high))
        self.log_A_real = nn.Parameter(torch.full((width, num_pairs), math.log(START_DECAY)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(num_pairs, dtype=torch.float32).repeat(width, 1))
        self.C = nn.Parameter(torch.randn(width, num_pairs, 2) * math.sqrt(0.5))  # real and imaginary parts
        self.D = nn.Parameter(torch.randn(width))

    def forward(self, inputs: Tensor) -> Tensor:
        with without_autocast(inputs):
            inputs = at_least_float32(inputs)
            return torch.addcmul(causal_convolution(inputs, self.kernel(inputs.shape[1])), inputs, self.D)

    def prefill(self, inputs: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve what follows on `state`, in pieces."""
        with without_autocast(inputs):
            outputs = []
            for piece in at_least_float32(inputs).split(LONGEST_PRODUCT, dim=1):
                output, state = self._continue(piece, state)
                outputs.append(output)
            assert state is not None
            return torch.cat(outputs, dim=1), state

    def _continue(self, inputs: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        length = inputs.shape[1]
        log_powers, entry = self.discretised()
        fading_HMT = (log_powers[..., None] * torch.arange(1, length + 1, device=inputs.device)).exp()
        entering_HMT = entry[..., None] * F.pad(fading_HMT[..., :-1], (1, 0), value=1.0).flip(-1)
        after = torch.einsum("hmt,bth->bhm", entering_HMT, inputs.to(entering_HMT.dtype))
        outputs = self(inputs)
        if state is None:
            return outputs, after
        read = 2 * torch.einsum("hm,hmt,bhm->bth", torch.view_as_complex(self.C), fading_HMT, state).real
        return outputs + read, after + fading_HMT[..., -1] * state

    def discretised(self) -> tuple[Tensor, Tensor]:
        """Return dt A and (exp(dt A) - 1) / A, complex, (H, M) each."""
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        log_powers = A * self.log_dt.exp()[:, None]
        return log_powers, (log_powers.exp() - 1) / A

    def kernel(self, length: int) -> Tensor:
        """Return the convolution kernel: the effect of an input 0 .. length - 1 positions later, (H, length)."""
        log_powers, entry = self.discretised()
        powers_HMT = (log_powers[..., None] * torch.arange(length, device=self.D.device)).exp()
        return 2 * torch.einsum("hm,hmt->ht", torch.view_as_complex(self.C) * entry, powers_HMT).real


class S4Mixer(nn.Module):
    """State space, activation and a gated projection, (B, T, H) -> (B, T, H)."""

    def __init__(self, config: S4Config):
        super().__init__()
        self.state_space = DiagonalStateSpace(config.hidden_dim, config.state_dim)
        self.out = nn.Linear(config.hidden_dim, 2 * config.hidden_dim)

    def forward(self, states: Tensor) -> Tensor:
        return self.project_out(self.state_space(states))

    def prefill(self, states: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        mixed, state = self.state_space.prefill(states, state)
        return self.project_out(mixed), state

    def project_out(self, mixed: Tensor) -> Tensor:
        return F.glu(self.out(F.gelu(mixed)), dim=-1)


def mixers(config: S4Config) -> RecurrentStack:
    layers = ((S4Mixer(config), Mlp(config.hidden_dim, config.mlp_dim)) for _ in range(config.num_layers))
    return RecurrentStack(layers, LayerNorm, config)


def reference_state_space(space: DiagonalStateSpace, inputs: Tensor) -> Tensor:
    """Follow the recurrence one position at a time, (B, T, H) -> (B, T, H); the slow twin."""
    A = -space.log_A_real.exp() + 1j * space.A_imag
    C = space.C[..., 0] + 1j * space.C[..., 1]
    fading = (A * space.log_dt.exp()[:, None]).exp()
    state = torch.zeros_like(A)
    outputs = []
    for u in inputs.unbind(1):
        state = fading * state + (fading - 1) / A * u[..., None]
        outputs.append(2 * (C * state).sum(-1).real + space.D * u)
    return torch.stack(outputs, dim=1)


def reference_s4_mixer(mixer: S4Mixer, states: Tensor) -> Tensor:
    return mixer.project_out(reference_state_space(mixer.state_space, states))


ARCHITECTURE = Architecture(
    name="s4",
    summary="S4 in its diagonal form, a state space for each channel",
    sources=("https://arxiv.org/abs/2206.11893", "https://github.com/state-spaces/s4 (e757cef)"),
    config_class=S4Config,
    presets={
        "smoke": Preset(config=S4Config(hidden_dim=64, num_layers=2, state_dim=16, mlp_dim=256), num_params=417_676),
        "small": Preset(config=S4Config(dropout=0.5, hidden_dim=192, num_layers=6, mlp_dim=768), num_params=2_934_028),
        "full": Preset(config=S4Config(), num_params=97_698_124),
    },
    build_model=lambda config: Backbone(config, mixers(config)),
    reference=reference_of({S4Mixer: reference_s4_mixer}),
    sweep={"state_dim": (16, 32, 64, 128, 256)},
)
