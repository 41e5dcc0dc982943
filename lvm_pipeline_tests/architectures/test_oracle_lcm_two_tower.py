"""Two-tower LCM against the authors' towers, schedule and sampler."""

import pytest
import torch

from lvm_pipeline.architectures._diffusion import NoiseSchedule, sampling_steps
from lvm_pipeline.architectures.lcm_two_tower import ARCHITECTURE, TwoTowerConfig
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.oracles import (
    OPERATOR_TOLERANCE,
    PRECISIONS,
    STACK_TOLERANCE,
    assert_equals,
    below,
    oracle,
)

NUM_STEPS = 100
SINGLE = OPERATOR_TOLERANCE[torch.float32]  # everything in the file was computed in float32


@pytest.fixture(scope="module")
def recorded():
    return oracle("lcm", "tt")


@pytest.fixture(scope="module", params=PRECISIONS)
def model(recorded, request):
    config = TwoTowerConfig(
        vector_dim=24,
        hidden_dim=32,
        num_layers=1,
        num_denoiser_layers=2,
        num_heads=4,
        head="none",
        unit_length=False,
    )
    model = ARCHITECTURE.build_model(config).eval()
    own = {name: model.state_dict()[name] for name in ("noise", "normaliser.center", "normaliser.scale")}
    model.load_state_dict(own | weight_maps.two_tower_lcm(below(recorded, "w")), strict=True)
    return model.to(request.param)


def encoded(model, recorded):
    return model.mixers(model.states_of(recorded["in.context"].to(model.noise.dtype)))


def test_context_encoder_equals_the_oracle(model, recorded):
    assert_equals(encoded(model, recorded), recorded["out.context_encoded"], STACK_TOLERANCE)


def test_embedding_of_steps_equals_the_oracle(model, recorded):
    assert_equals(model.denoiser.embed_step(recorded["in.timesteps"]), recorded["out.time_embedding"], SINGLE)


def test_denoised_vectors_equal_the_oracle(model, recorded):
    # Their position t sees the contexts before t: the memory ends one concept earlier than the noisy vectors.
    memory = model.denoiser.read(encoded(model, recorded)[:, :-1])
    noisy = recorded["in.noisy"].to(model.noise.dtype)
    found = model.output_projection(model.denoiser(noisy, recorded["in.timesteps"], memory))
    assert_equals(found, recorded["out.pred"], STACK_TOLERANCE)


@pytest.fixture(scope="module", params=["cosine", "sigmoid"])
def schedule_and_recorded(request):
    ddim = oracle("lcm", "ddim")
    return NoiseSchedule(request.param, NUM_STEPS), below(ddim, f"{request.param}{NUM_STEPS}"), below(ddim, "in")


def test_schedule_equals_the_oracle(schedule_and_recorded):
    schedule, expected, _ = schedule_and_recorded
    shares = torch.tensor(schedule.shares)
    assert_equals(shares, expected["alphas_cumprod"], SINGLE)
    assert_equals(1 - shares / torch.cat([torch.ones(1), shares[:-1]]), expected["betas"], SINGLE)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_noisy_vectors_equal_the_oracle(schedule_and_recorded, dtype):
    schedule, expected, given = schedule_and_recorded
    clean, noise = given["x0"].to(dtype), given["noise"].to(dtype)
    assert_equals(schedule.add_noise(clean, noise, given["t"]), expected["add_noise"], SINGLE)
    signal_rate, noise_rate = schedule.rates_at(given["t"])
    assert_equals(signal_rate * noise - noise_rate * clean, expected["velocity"], SINGLE)


def test_sampled_steps_equal_the_oracle(schedule_and_recorded):
    _, expected, _ = schedule_and_recorded
    assert sampling_steps(NUM_STEPS, 10) == expected["timesteps10"].tolist()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_one_step_of_the_sampler_equals_the_oracle(schedule_and_recorded, dtype):
    schedule, expected, given = schedule_and_recorded
    step, next_step = sampling_steps(NUM_STEPS, 10)[3:5]
    noisy, clean = given["x0"].to(dtype), given["model_output"].to(dtype)
    found = schedule.next_sample(noisy, clean, step=step, next_step=next_step)
    assert_equals(found, expected["step_prev"], SINGLE)
    noise = schedule.noise_in(noisy, clean, step)
    assert_equals(schedule.without_noise(noisy, noise, step), expected["step_x0"], SINGLE)
