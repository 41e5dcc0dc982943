"""Rows of zeros change which products a training computes, and no result. No CPU with AMX is needed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lvm_pipeline.architectures import _torch_internals
from lvm_pipeline.architectures._recurrence import gru_layer, lstm_layer, run_layers
from lvm_pipeline.architectures._row_padding import ROW_STEP, PaddedLinears, pad_rows, padded_linear
from lvm_pipeline.training.objectives import TrainingLoss, objective_named
from lvm_pipeline_tests.architectures.models import NAMES, batch_of, build, noise, usable_length

LAYERS = {"lstm": (nn.LSTM, lstm_layer), "gru": (nn.GRU, gru_layer)}


@pytest.fixture
def amx(monkeypatch):
    """Call it to say whether the CPU has AMX."""

    def set_to(has_amx):
        monkeypatch.setattr(_torch_internals, "has_amx", lambda: has_amx)

    set_to(True)
    return set_to


@pytest.fixture
def row_numbers(monkeypatch):
    """The number of rows of each product of a linear map."""
    numbers, linear = [], F.linear

    def counting(inputs, *weights):
        numbers.append(inputs.shape[:-1].numel())
        return linear(inputs, *weights)

    monkeypatch.setattr(F, "linear", counting)
    return numbers


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def floats(*shape, seed):
    return noise(*shape, seed=seed, dtype=torch.float32).requires_grad_()


def same_direction(found, expected):
    return F.cosine_similarity(found.flatten().float(), expected.flatten().float(), dim=0) > 0.9999


@pytest.mark.parametrize(("rows", "expected"), [(129, 256), (300, 384), (256, 256), (128, 128), (7, 7)])
def test_more_rows_than_one_step_become_a_multiple_of_it(amx, rows, expected):
    values = torch.ones(rows, 3, dtype=torch.bfloat16)
    padded = pad_rows(values)
    assert padded.shape == (expected, 3)
    assert (padded[:rows] == 1).all()
    assert (padded[rows:] == 0).all()


def test_nothing_is_padded_in_float32_or_without_amx(amx):
    assert len(pad_rows(torch.ones(300, 3))) == 300
    amx(False)
    assert len(pad_rows(torch.ones(300, 3, dtype=torch.bfloat16))) == 300


@pytest.mark.parametrize("shape", [(300, 16), (3, 100, 16), (2, 3, 50, 16), (16,), (0, 16), (5, 16)])
def test_padded_linear_is_linear(amx, shape, row_numbers):
    inputs, weight, bias = floats(*shape, seed=1), floats(24, 16, seed=2), floats(24, seed=3)
    with bfloat16():
        expected, found = F.linear(inputs, weight, bias), padded_linear(inputs, weight, bias)
    assert row_numbers[1] == (384 if inputs.numel() == 300 * 16 else row_numbers[0])
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    for one, other in zip(*gradients_of([found, expected], [inputs, weight, bias]), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-1)


def gradients_of(outputs, leaves):
    return [
        torch.autograd.grad((each.float() * noise(*each.shape, seed=9)).sum(), leaves, retain_graph=True)
        for each in outputs
    ]


def test_products_in_float32_are_not_padded(amx, row_numbers):
    padded_linear(floats(300, 16, seed=1), floats(24, 16, seed=2))
    assert row_numbers == [300]


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_give_the_same_states_and_gradients(amx, kind, noisy_memory):
    torch_class, layer = LAYERS[kind]
    layers = torch_class(32, 48, 2, batch_first=True)
    states = floats(3, 200, 32, seed=1)
    at = torch.arange(200) < torch.tensor([200, 150, 71])[:, None]
    results = []
    for has_amx in (False, True):
        amx(has_amx)
        found = run_layers(layers, states, layer, at=at, dtype=torch.bfloat16)
        results.append([found, *gradients_of([found], [states, *layers.parameters()])[0]])
    assert len(results[0][0]) % ROW_STEP != 0
    for plain, padded in zip(*results, strict=True):
        assert padded.shape == plain.shape
        assert same_direction(padded, plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_has_the_same_loss_and_gradients(amx, name, row_numbers):
    model = build(name).train()
    contexts = F.normalize(noise(41, usable_length(model, 7), 32, dtype=torch.float32), dim=-1)
    model.fit(contexts.flatten(0, 1))
    batch = batch_of(contexts, contexts.roll(-1, 1), torch.ones(contexts.shape[:2], dtype=torch.bool))
    results = []
    for has_amx in (False, True):
        amx(has_amx)
        row_numbers.clear()
        torch.manual_seed(0)
        model.zero_grad()
        with bfloat16():
            loss = TrainingLoss(model)(batch, objective_named("cosine"))
        loss.backward()
        results.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-3)
    assert F.cosine_similarity(results[1][1], results[0][1], dim=0) > 0.995
    assert all(number <= ROW_STEP or number % ROW_STEP == 0 for number in row_numbers)


def test_linear_maps_of_a_model_are_padded_inside_the_context_only(amx, row_numbers):
    model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8))
    inputs = floats(300, 16, seed=1)
    with bfloat16():
        with PaddedLinears(model):
            model(inputs)
        model(inputs)
    assert row_numbers == [384, 384, 300, 300]
    assert "forward" not in vars(model[0])


def test_without_amx_linear_maps_stay_as_they_are(amx):
    amx(False)
    model = nn.Sequential(nn.Linear(16, 24))
    with PaddedLinears(model):
        assert "forward" not in vars(model[0])
