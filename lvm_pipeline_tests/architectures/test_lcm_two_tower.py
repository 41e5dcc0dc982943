import pytest
import torch

from lvm_pipeline.architectures._contract import count_parameters
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, build, loss_on, noise, noisy_model

NAME = "lcm_two_tower"


def loss_of(model, contexts, targets, is_target):
    torch.manual_seed(0)
    return loss_on(model, contexts, targets, is_target)


def test_a_prediction_does_not_depend_on_the_random_state_around_it():
    model, contexts = noisy_model(NAME), noise(2, 5, VECTOR_DIM)
    torch.manual_seed(1)
    one = model(contexts)
    torch.manual_seed(2)
    assert torch.equal(model(contexts), one)


def test_other_noise_samples_other_vectors():
    model, contexts = noisy_model(NAME, initial_noise_scale=0.6), noise(2, 5, VECTOR_DIM)
    assert torch.equal(model.sample(contexts, model.noise.expand(contexts.shape)), model(contexts))
    other = model.sample(contexts, noise(*contexts.shape, seed=3))
    assert (other - model(contexts)).norm(dim=-1).min() > 1e-3


def test_at_no_initial_noise_a_prediction_depends_on_the_context_alone():
    model, contexts = noisy_model(NAME, initial_noise_scale=0.0), noise(2, 5, VECTOR_DIM)
    assert torch.equal(model.sample(contexts, noise(*contexts.shape, seed=3)), model(contexts))


def test_models_of_other_seeds_start_from_other_noise():
    assert not torch.equal(build(NAME, seed=0).noise, build(NAME, seed=1).noise)


def test_idle_projections_change_no_prediction():
    model, contexts = noisy_model(NAME, has_idle_projections=True), noise(2, 5, VECTOR_DIM)
    without = build(NAME, has_idle_projections=False, head="none").double().eval()
    kept = {name: value for name, value in model.state_dict().items() if ".idle." not in name}
    without.load_state_dict(kept, strict=True)
    assert torch.equal(without(contexts), model(contexts))
    width, num_layers = model.config.hidden_dim, model.config.num_denoiser_layers
    assert count_parameters(model) - count_parameters(without) == num_layers * 2 * (width**2 + width)


def test_guidance_of_one_is_no_guidance():
    model, contexts = noisy_model(NAME, guidance_scale=1.0), noise(2, 5, VECTOR_DIM)
    nearly = noisy_model(NAME, guidance_scale=1.0 + 1e-9)
    torch.testing.assert_close(nearly(contexts), model(contexts), rtol=0, atol=1e-6)


def test_the_first_step_is_not_guided():
    contexts = noise(2, 5, VECTOR_DIM)
    one, other = (noisy_model(NAME, sampling_steps=1, guidance_scale=scale)(contexts) for scale in (1.0, 7.0))
    assert torch.equal(one, other)


def test_the_last_concept_read_reaches_the_prediction_and_no_later_one():
    model, contexts, targets = noisy_model(NAME), noise(1, 6, VECTOR_DIM), noise(1, 6, VECTOR_DIM, seed=2)
    contexts.requires_grad_()
    is_target = torch.zeros(1, 6, dtype=torch.bool)
    is_target[:, 3] = True
    (gradient,) = torch.autograd.grad(loss_of(model, contexts, targets, is_target), contexts)
    lengths = gradient[0].norm(dim=-1)
    assert (lengths[:4] > 1e-6).all()
    assert (lengths[4:] == 0).all()


def test_the_loss_counts_targets_alone():
    model, contexts, targets = noisy_model(NAME), noise(2, 6, VECTOR_DIM), noise(2, 6, VECTOR_DIM, seed=2)
    is_target = torch.zeros(2, 6, dtype=torch.bool)
    is_target[:, -1] = True
    others = torch.where(is_target[..., None], targets, 9.0)
    assert loss_of(model, contexts, others, is_target) == loss_of(model, contexts, targets, is_target)


def test_without_its_context_a_position_denoises_alone():
    model = noisy_model(NAME, guidance_dropout=1 - 1e-9)
    targets, is_target = noise(2, 5, VECTOR_DIM), torch.ones(2, 5, dtype=torch.bool)
    one, other = (loss_of(model, noise(2, 5, VECTOR_DIM, seed=seed), targets, is_target) for seed in (3, 4))
    assert one == other


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_the_share_of_positions_without_context_is_the_configured_one(share, monkeypatch):
    model, seen = build(NAME, guidance_dropout=share), []
    denoise = model.denoiser.forward
    monkeypatch.setattr(model.denoiser, "forward", lambda *given: seen.append(given[3]) or denoise(*given))
    contexts = noise(50, 20, VECTOR_DIM, dtype=torch.float32)
    loss_of(model, contexts, contexts, torch.ones(50, 20, dtype=torch.bool))
    assert abs(seen[0].float().mean() - share) < 0.03


def test_more_draws_of_a_target_read_its_context_once():
    model, contexts = noisy_model(NAME, draws_per_target=4), noise(2, 5, VECTOR_DIM)
    read, denoised = [], []
    model.mixers.register_forward_hook(lambda _module, _given, found: read.append(len(found)))
    model.denoiser.register_forward_hook(lambda _module, _given, found: denoised.append(len(found)))
    several = loss_of(model, contexts, contexts, torch.ones(2, 5, dtype=torch.bool))
    assert (read, denoised) == ([2], [8])
    single = noisy_model(NAME, draws_per_target=1)
    assert several != loss_of(single, contexts, contexts, torch.ones(2, 5, dtype=torch.bool))
