import math
from itertools import pairwise

import pytest
import torch

from lvm_pipeline.architectures._diffusion import SCHEDULES, NoiseSchedule, guided, sampling_steps, signal_shares
from lvm_pipeline_tests.architectures.models import noise


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [2, 10, 100, 1000])
def test_signal_fades_to_nothing(schedule, num_steps):
    shares = signal_shares(schedule, num_steps)
    assert len(shares) == num_steps
    assert all(one > other for one, other in pairwise(shares))
    assert shares[0] < 1
    assert shares[-1] == 0


@pytest.mark.parametrize(("num_sampled", "expected"), [(1, [99]), (2, [99, 49]), (4, [99, 74, 49, 24])])
def test_sampled_steps_are_even_and_begin_at_the_noisiest(num_sampled, expected):
    assert sampling_steps(100, num_sampled) == expected


@pytest.mark.parametrize("num_sampled", [3, 7, 40, 100])
def test_any_number_of_steps_can_be_sampled(num_sampled):
    steps = sampling_steps(100, num_sampled)
    assert len(set(steps)) == num_sampled
    assert steps[0] == 99
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] >= 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_perfect_denoiser_turns_noise_into_samples_of_the_distribution(schedule):
    mean, deviation = 2.0, 0.5
    rates, noisy = NoiseSchedule(schedule, 1000), noise(20_000)
    steps = sampling_steps(1000, 1000)
    for step, next_step in pairwise(steps):
        share = rates.shares[step]
        gain = deviation**2 * math.sqrt(share) / (deviation**2 * share + 1 - share)
        clean = mean + gain * (noisy - math.sqrt(share) * mean)  # the mean of x where x + noise is known
        noisy = rates.next_sample(noisy, clean, step=step, next_step=next_step)
    assert abs(noisy.mean() - mean) < 0.02
    assert abs(noisy.std() - deviation) < 0.02


def test_guidance_goes_further_the_same_way():
    conditional, unconditional = noise(3, 16), noise(3, 16, seed=2)
    torch.testing.assert_close(guided(conditional, unconditional, scale=1, rescale=0.7), conditional)
    further = guided(conditional, unconditional, scale=3, rescale=0)
    torch.testing.assert_close(further, unconditional + 3 * (conditional - unconditional))


@pytest.mark.parametrize(("rescale", "share_left"), [(1.0, 0.0), (0.7, 0.3), (0.0, 1.0)])
def test_rescaling_gives_back_the_spread_of_the_conditional_noise(rescale, share_left):
    conditional, unconditional = noise(3, 16), noise(3, 16, seed=2)
    without = guided(conditional, unconditional, scale=3, rescale=0).std(dim=-1)
    found = guided(conditional, unconditional, scale=3, rescale=rescale).std(dim=-1)
    torch.testing.assert_close(found, conditional.std(dim=-1) * rescale + without * share_left)
