"""Diffusion of a vector in N steps: the noise schedule and the deterministic sampler.

Papers: Nichol and Dhariwal, 2021 (arXiv 2102.09672) for the cosine; LCM team, 2024 (arXiv 2412.08821),
equation 14, for the sigmoid; Lin et al., 2023 (arXiv 2305.08891), algorithms 1 and 2, for a last step
without signal and for the rescaled guidance; Song et al., DDIM, 2020 (arXiv 2010.02502). Code:
github.com/facebookresearch/large_concept_model fd7db80, `lcm/nn/schedulers/ddim.py`. Left out: other
schedules, thresholds, noise added while sampling (eta). The authors' sampler steps by a whole number even
where its steps do not divide N; here each step leads to the next one on the list.

Shapes: B = batch, T = positions, D = vector width. Steps are counted from 0; s_n is the share of signal.

    x_n    = sqrt(s_n) x + sqrt(1 - s_n) noise              s_{N-1} = 0: nothing but noise
    x_n'   = sqrt(s_n') clean + sqrt(1 - s_n') noise        noise = (x_n - sqrt(s_n) clean) / sqrt(1 - s_n)
"""

import math

import torch
from torch import Tensor, nn

LARGEST_BETA = 0.999
COSINE_OFFSET = 0.008
SIGMOID_STEEPNESS = 1.5
SMALLEST_LENGTH = 1e-20  # of guided noise, against a division by zero


def _cosine(time: float) -> float:
    return math.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2


def _sigmoid(time: float) -> float:
    return 1 / (1 + (time / (1 - time)) ** SIGMOID_STEEPNESS) if time < 1 else 0.0


SCHEDULES = {"cosine": _cosine, "sigmoid": _sigmoid}


def signal_shares(schedule: str, num_steps: int) -> list[float]:
    """Return the share of signal at each step, from nearly one to exactly zero."""
    share_at = SCHEDULES[schedule]
    roots, share = [], 1.0
    for step in range(num_steps):
        beta = 1 - share_at((step + 1) / num_steps) / share_at(step / num_steps)
        share *= 1 - min(beta, LARGEST_BETA)
        roots.append(math.sqrt(share))
    stretch = roots[0] / (roots[0] - roots[-1])
    return [((root - roots[-1]) * stretch) ** 2 for root in roots]


def sampling_steps(num_steps: int, num_sampled: int) -> list[int]:
    """Return the steps that a sampler visits, evenly spaced, the noisiest first and always included."""
    return [round(num_steps - number * num_steps / num_sampled) - 1 for number in range(num_sampled)]


class NoiseSchedule(nn.Module):
    """The rates at which signal and noise are mixed at each step."""

    rates: Tensor

    def __init__(self, schedule: str, num_steps: int):
        super().__init__()
        self.shares = signal_shares(schedule, num_steps)
        rates = [(math.sqrt(share), math.sqrt(1 - share)) for share in self.shares]
        self.register_buffer("rates", torch.tensor(rates), persistent=False)

    def rates_at(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much signal and how much noise there is at steps (B, T), (B, T, 1) each."""
        signal_rate, noise_rate = self.rates[steps].unbind(-1)
        return signal_rate[..., None], noise_rate[..., None]

    def add_noise(self, vectors: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Mix vectors and noise (B, T, D) as they are at steps (B, T)."""
        signal_rate, noise_rate = self.rates_at(steps)
        return signal_rate * vectors + noise_rate * noise

    def noise_in(self, noisy: Tensor, clean: Tensor, step: int) -> Tensor:
        """Return what noise makes the clean vectors (B, T, D) the noisy ones at a step."""
        share = self.shares[step]
        return (noisy - math.sqrt(share) * clean) / math.sqrt(1 - share)

    def without_noise(self, noisy: Tensor, noise: Tensor, step: int) -> Tensor:
        """Return the clean vectors (B, T, D) where the noise is known; not at the last step, which has no signal."""
        share = self.shares[step]
        return (noisy - math.sqrt(1 - share) * noise) / math.sqrt(share)

    def next_sample(self, noisy: Tensor, clean: Tensor, *, step: int, next_step: int) -> Tensor:
        """Go from a step to a less noisy one, given the clean vectors (B, T, D) as they are seen from there."""
        share = self.shares[next_step]
        return math.sqrt(share) * clean + math.sqrt(1 - share) * self.noise_in(noisy, clean, step)


def guided(conditional: Tensor, unconditional: Tensor, *, scale: float, rescale: float) -> Tensor:
    """Move the conditional noise (..., D) away from the unconditional one.

    `scale` is the guidance scale; 1 is the conditional noise. `rescale`, 0 to 1, is how far the spread of the result
    is scaled back to that of the conditional noise.
    """
    found = unconditional + scale * (conditional - unconditional)
    factor = _spread(conditional) / _spread(found).clamp_min(SMALLEST_LENGTH)
    return (rescale * factor + (1 - rescale)) * found


def _spread(vectors: Tensor) -> Tensor:
    return (vectors - vectors.mean(dim=-1, keepdim=True)).norm(dim=-1, keepdim=True)
