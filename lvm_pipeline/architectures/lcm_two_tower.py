"""Two-tower LCM: a context encoder, and a denoiser that turns noise into the next concept.

Paper: LCM team, Large Concept Models, 2024 (arXiv 2412.08821), sections 2.3.2 and 2.3.4. Code:
github.com/facebookresearch/large_concept_model fd7db80, `lcm/models/two_tower_diffusion_lcm`,
`lcm/train/two_tower_diffusion_lcm/criterion.py`. Left out: the end-of-text vector, weights and samplers of
training steps other than the uniform one.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width.

    z = normalise(x),  c = encoder(W_in z + b_in)                        `_normaliser`, `_lcm_decoder`
    clean_t = W_out denoiser(noisy_t, step_t; 0, c_1 .. c_t) + b_out     `_denoiser`: of normalise(the concept after t)

The authors' position t+1 is position t here: it denoises the concept after t and sees the contexts up to t.

Training draws a step and noise for each target and minimises the squared error of the clean vector in the
normalised space, as a share of its square, plus the training's objective on that vector denormalised: for
vectors of unit length both have their best value in the same direction. A random fraction of positions (the
authors draw a fixed number of rows for the whole batch) is denoised without context. On small data sets,
`draws_per_target` above one (the authors' number) learns more from each context, which is encoded once for all
draws.

A prediction starts from noise at the last step, where there is no signal, and visits `sampling_steps` of
the training's steps, each further from what would be predicted without the context by `guidance_scale`
(not the first: without signal guidance has no meaning). That noise is one vector for all positions and
contexts, drawn with the weights and saved with them, so that a context always has the same prediction,
whatever the batch, the length or the random state around it; `sample` takes other noise.

`initial_noise_scale` decides what is predicted. At 0, the default, it is the mean over what may follow, as
every other architecture predicts it and as cosine rewards. Above 0 it is one of the things that may follow,
which has a lower cosine on average. The authors' settings for text are 40 steps, noise 0.6, guidance 3 and
rescaling 0.7; those are fields like the others.

With the head its weighted mean, normalised, is added to every W_out u + b_out, with and without
context alike, so that guidance sharpens the correction alone and a fresh model is exactly that mean.

`full` has 5 and 13 layers. Of its parameters 109,105,152 are projections to queries and keys that the
authors keep and no prediction depends on; `has_idle_projections` off leaves them out. `published` has the
authors' vector width and no head: its count is that of their code, 1,645,538,304 (their docstring says
1,635,101,696).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import option
from lvm_pipeline.architectures._contract import Architecture, DenoisingOutput, Preset
from lvm_pipeline.architectures._denoiser import Denoiser, Memory, context_free, reference_denoiser, repeated
from lvm_pipeline.architectures._diffusion import SCHEDULES, NoiseSchedule, guided, sampling_steps
from lvm_pipeline.architectures._lcm_decoder import DecoderConfig, decoder, reference_decoder
from lvm_pipeline.architectures._normaliser import RobustNormaliser
from lvm_pipeline.architectures._precision import at_least_float32
from lvm_pipeline.architectures._stack import RecurrentStack

TwoTowerState = tuple[Any, Memory, Any]  # of the encoder, the denoiser and the head


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig(DecoderConfig):
    """Sizes of both towers, how noise enters in training, and how predictions are sampled."""

    num_layers: int = 5
    num_denoiser_layers: int = option(13, "Number of denoiser layers; num_layers is the context encoder's.")
    has_idle_projections: bool = option(True, "Keep the authors' projections that no prediction depends on.")
    schedule: str = option("cosine", "Noise schedule: cosine or sigmoid.")
    num_train_steps: int = option(100, "Number of noise levels in training.")
    draws_per_target: int = option(1, "Noise draws per target and optimiser step.")
    guidance_dropout: float = option(0.15, "Fraction of training positions without context.")
    sampling_steps: int = option(4, "Denoising steps per prediction.")
    guidance_scale: float = option(1.5, "Weight of classifier-free guidance; 1 turns it off.")
    guidance_rescale: float = option(0.7, "Rescaling of guided noise, 0 to 1.")
    initial_noise_scale: float = option(0.0, "Scale of the noise that a prediction starts from; 0 predicts the mean.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_denoiser_layers", "draws_per_target"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        self.require(self.num_train_steps >= 2, "num_train_steps", "at least 2")
        most = self.num_train_steps
        self.require(1 <= self.sampling_steps <= most, "sampling_steps", f"from 1 to num_train_steps = {most}")
        self.require(0 <= self.guidance_dropout < 1, "guidance_dropout", "at least 0 and below 1")
        for name in ("guidance_scale", "initial_noise_scale"):
            self.require(0 <= getattr(self, name) < float("inf"), name, "0 or more")
        self.require(0 <= self.guidance_rescale <= 1, "guidance_rescale", "from 0 to 1")


class TwoTowerLcm(Backbone):
    """Encoder, denoiser, sampler."""

    learns_by_denoising = True
    noise: Tensor

    def __init__(self, config: TwoTowerConfig):
        """Build both towers and draw the noise that predictions start from."""
        normaliser = RobustNormaliser(config.vector_dim)
        super().__init__(config, decoder(config, config.num_layers), normaliser=normaliser)
        self.denoiser = Denoiser(
            config, num_layers=config.num_denoiser_layers, has_idle_projections=config.has_idle_projections
        )
        self.schedule = NoiseSchedule(config.schedule, config.num_train_steps)
        self.sampling = config
        self.register_buffer("noise", torch.randn(config.vector_dim))

    @property
    def space(self) -> RobustNormaliser:
        assert self.normaliser is not None
        return self.normaliser

    def forward(
        self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None, targets: Tensor | None = None
    ) -> Any:
        """Sample predictions from the model's noise, or denoise `targets` (B, T, D) if given; see the contract."""
        if targets is not None:
            return self._denoise_targets(contexts, condition, at, targets)
        predictions = self.sample(contexts, self.noise.expand(contexts.shape), condition)
        return predictions if at is None else predictions[at]

    def sample(self, contexts: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Sample the next vector after every position of contexts (B, T, D) from noise (B, T, D)."""
        encoded = self.mixers(self.states_of(contexts, condition))
        return self._sampled(noise, self.start_from(contexts, encoded), self.denoiser.read(encoded))

    def prefill(
        self, contexts: Tensor, state: TwoTowerState | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, TwoTowerState]:
        encoder_state, memory, head_state = (None, None, None) if state is None else state
        assert isinstance(self.mixers, RecurrentStack)
        encoded, encoder_state = self.mixers.prefill(self.states_of(contexts, condition), encoder_state)
        start = torch.zeros_like(at_least_float32(contexts))
        if self.residual_head is not None:
            weighted, head_state = self.residual_head.prefill(contexts, encoded, head_state)
            start = self.space(weighted)
        memory = self.denoiser.read(encoded, memory)
        return self._sampled(self.noise.expand(contexts.shape), start, memory), (encoder_state, memory, head_state)

    def start_from(self, contexts: Tensor, encoded: Tensor) -> Tensor:
        """Return what every denoised vector is a correction of, normalised, (B, T, D)."""
        if self.residual_head is None:
            return torch.zeros_like(at_least_float32(contexts))
        return self.space(self.residual_head(contexts, encoded))

    def _denoise_targets(
        self, contexts: Tensor, condition: Tensor | None, at: Tensor | None, targets: Tensor
    ) -> DenoisingOutput:
        """Denoise the targets from steps drawn at random."""
        encoded = self.mixers(self.states_of(contexts, condition))
        num_draws = self.sampling.draws_per_target
        start = self.start_from(contexts, encoded).repeat(num_draws, 1, 1)
        memory = repeated(self.denoiser.read(encoded), num_draws)
        is_target = torch.ones(contexts.shape[:2], dtype=torch.bool, device=contexts.device) if at is None else at
        wanted, counts = self.space(targets).repeat(num_draws, 1, 1), is_target.repeat(num_draws, 1)
        steps = torch.randint(self.sampling.num_train_steps, counts.shape, device=targets.device)
        noisy = self.schedule.add_noise(wanted, torch.randn_like(wanted), steps)
        is_without = torch.rand(counts.shape, device=targets.device) < self.sampling.guidance_dropout
        clean = self._denoised(noisy, steps, start, memory, is_without)
        error = (clean - wanted)[counts].square().sum() / wanted[counts].square().sum()
        return DenoisingOutput(self.vectors_from(clean)[counts].unflatten(0, (num_draws, -1)), error)

    def _denoised(
        self, noisy: Tensor, steps: Tensor, start: Tensor, memory: Memory, is_without: Tensor | None = None
    ) -> Tensor:
        states = self.denoiser(noisy, steps, memory, is_without)
        return start + at_least_float32(self.output_projection(self.dropout(states)))

    def _sampled(self, noise: Tensor, start: Tensor, memory: Memory) -> Tensor:
        """Go from noise to predictions (B, T, D)."""
        visited = sampling_steps(self.sampling.num_train_steps, self.sampling.sampling_steps)
        noisy = self.sampling.initial_noise_scale * noise
        clean = self._seen_from(visited[0], noisy, start, memory)
        for step, next_step in pairwise(visited):
            noisy = self.schedule.next_sample(noisy, clean, step=step, next_step=next_step)
            clean = self._seen_from(next_step, noisy, start, memory)
        return self.vectors_from(clean)

    def vectors_from(self, clean: Tensor) -> Tensor:
        """Return normalised vectors (B, T, D) as predictions in the space of the concepts."""
        return self._finish(self.space.undo(clean))

    def _seen_from(self, step: int, noisy: Tensor, start: Tensor, memory: Memory) -> Tensor:
        """Predict the clean vectors (B, T, D) from noisy ones at a step, with classifier-free guidance."""
        steps = torch.full((1, 1), step, device=noisy.device)
        clean = self._denoised(noisy, steps, start, memory)
        scale, rescale = self.sampling.guidance_scale, self.sampling.guidance_rescale
        if scale == 1 or self.schedule.shares[step] == 0:
            return clean
        without = self._denoised(noisy, steps, start, context_free(memory))
        noises = (self.schedule.noise_in(noisy, each, step) for each in (clean, without))
        return self.schedule.without_noise(noisy, guided(*noises, scale=scale, rescale=rescale), step)


def reference(model: TwoTowerLcm, contexts: Tensor) -> Tensor:
    """Predict one position at a time, each from its own prefix alone."""
    predictions = []
    for length in range(1, contexts.shape[1] + 1):
        prefix = contexts[:, :length]
        encoded = reference_decoder(model.mixers, model.states_of(prefix))
        predictions.append(_reference_sample(model, encoded, model.start_from(prefix, encoded)[:, -1]))
    return model.vectors_from(torch.stack(predictions, dim=1))


def _reference_sample(model: TwoTowerLcm, encoded: Tensor, start: Tensor) -> Tensor:
    """Sample the normalised vector (B, D) after encoded contexts (B, T, H)."""
    config = model.sampling
    zeros = torch.zeros_like(encoded[:, :1])
    readings = (torch.cat([zeros, encoded], dim=1), zeros)
    noisy = config.initial_noise_scale * model.noise.expand(len(encoded), -1)
    clean = noise = noisy
    for number in range(config.sampling_steps):
        step = round(config.num_train_steps * (1 - number / config.sampling_steps)) - 1
        signal, spread = model.schedule.shares[step] ** 0.5, (1 - model.schedule.shares[step]) ** 0.5
        noisy = noisy if number == 0 else signal * clean + spread * noise
        clean, without = (
            start + model.output_projection(reference_denoiser(model.denoiser, noisy, step, read)) for read in readings
        )
        noise, noise_without = ((noisy - signal * each) / spread for each in (clean, without))
        if signal > 0:
            found = noise_without + config.guidance_scale * (noise - noise_without)
            factor = noise.std(dim=-1, keepdim=True) / found.std(dim=-1, keepdim=True)
            noise = found * (config.guidance_rescale * factor + 1 - config.guidance_rescale)
            clean = (noisy - spread * noise) / signal
    return clean


ARCHITECTURE = Architecture(
    name="lcm_two_tower",
    summary="Meta's Large Concept Model, two-tower diffusion",
    sources=(
        "https://arxiv.org/abs/2412.08821",
        "https://github.com/facebookresearch/large_concept_model (fd7db80, two_tower_diffusion_lcm)",
    ),
    config_class=TwoTowerConfig,
    presets={
        "smoke": Preset(
            config=TwoTowerConfig(
                hidden_dim=64,
                num_layers=1,
                num_denoiser_layers=1,
                num_heads=4,
                has_idle_projections=False,
                draws_per_target=4,
            ),
            num_params=578_636,
        ),
        "small": Preset(
            config=TwoTowerConfig(
                hidden_dim=192,
                num_layers=2,
                num_denoiser_layers=4,
                num_heads=4,
                has_idle_projections=False,
                draws_per_target=4,
            ),
            num_params=5_093_452,
        ),
        "full": Preset(config=TwoTowerConfig(), num_params=1_644_703_820),
        "published": Preset(config=TwoTowerConfig(vector_dim=1024, head="none"), num_params=1_645_538_304),
    },
    build_model=TwoTowerLcm,
    reference=reference,
    sweep={"schedule": ("cosine", "sigmoid"), "sampling_steps": (1, 2, 4, 10, 40), "guidance_scale": (1.0, 1.5, 3.0)},
    variant_of="lcm",
)
