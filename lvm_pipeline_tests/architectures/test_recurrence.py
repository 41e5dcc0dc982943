"""The layers for training on a CPU against torch's own, outputs and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lvm_pipeline.architectures._recurrence import gru_layer, lstm_layer, run_layers
from lvm_pipeline_tests.architectures.models import build, noise, redraw

KINDS = {"lstm": (nn.LSTM, lstm_layer), "gru": (nn.GRU, gru_layer)}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def gradients(outputs, inputs, layers):
    weights = noise(*outputs.shape, seed=4).to(outputs.dtype)
    return torch.autograd.grad((outputs * weights).sum(), [inputs, *layers.parameters()])


@pytest.mark.parametrize(("batch", "length", "num_layers"), [(3, 9, 2), (1, 1, 1), (4, 2, 3)])
def test_agrees_with_torch_in_float64(kind, batch, length, num_layers):
    torch_class, layer = KINDS[kind]
    layers = redraw(torch_class(12, 16, num_layers, batch_first=True)).double()
    states = noise(batch, length, 12).requires_grad_()
    expected = layers(states)[0]
    found = run_layers(layers, states, layer, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for one, other in zip(gradients(found, states, layers), gradients(expected, states, layers), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_element_is_written(kind, dtype, noisy_memory):
    torch_class, layer = KINDS[kind]
    layers = torch_class(12, 16, 2, batch_first=True)
    states = noise(3, 9, 12).to(dtype).requires_grad_()
    is_needed = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    found = run_layers(layers, states, layer, at=is_needed, dtype=dtype)
    assert found.isfinite().all()
    for each in gradients(found, states, layers):
        assert each.isfinite().all()


def test_stays_close_in_bfloat16(kind):
    torch_class, layer = KINDS[kind]
    layers = torch_class(32, 48, 2, batch_first=True)
    states = noise(4, 40, 32, dtype=torch.float32).requires_grad_()
    expected = layers(states)[0]
    found = run_layers(layers, states, layer, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    for one, other in zip(gradients(found, states, layers), gradients(expected, states, layers), strict=True):
        assert F.cosine_similarity(one.flatten().float(), other.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("lengths", [(9, 4, 1), (2, 7, 7), (5, 5, 5)])
def test_leaves_out_what_lies_behind_a_length(kind, lengths):
    torch_class, layer = KINDS[kind]
    layers = redraw(torch_class(12, 16, 2, batch_first=True)).double()
    states = noise(3, 9, 12).requires_grad_()
    is_needed = torch.arange(9) < torch.tensor(lengths)[:, None]
    expected = layers(states)[0][is_needed]
    found = run_layers(layers, states, layer, at=is_needed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for one, other in zip(gradients(found, states, layers), gradients(expected, states, layers), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_agrees_with_torch_where_matrices_are_laid_out(kind):
    torch_class, layer = KINDS[kind]
    layers = torch_class(32, 48, 2, batch_first=True)
    states = noise(4, 40, 32, dtype=torch.float32).requires_grad_()
    expected = layers(states)[0]
    is_needed = torch.arange(40) < torch.tensor([40, 40, 39, 40])[:, None]
    found, expected = run_layers(layers, states, layer, at=is_needed), expected[is_needed]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(found, states, layers), gradients(expected, states, layers), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_is_used_in_training_on_a_cpu_only(kind, monkeypatch):
    used = []

    def noted(*arguments, **named):
        used.append(True)
        return run_layers(*arguments, **named)

    monkeypatch.setattr("lvm_pipeline.architectures._recurrence.run_layers", noted)
    model, contexts = build(kind), noise(4, 5, 32, dtype=torch.float32)
    with torch.no_grad():
        model(contexts)
    assert not used
    model(contexts)
    assert used


def test_short_contexts_and_single_concepts_are_not_read_by_the_lstm_of_torch(monkeypatch):
    model, contexts = build("lstm").eval(), noise(2, 7, 32, dtype=torch.float32)
    with torch.no_grad():
        expected = model(contexts)
        _, state = model.prefill(contexts[:, :5])
        monkeypatch.setattr(nn.LSTM, "forward", None)
        short = model(contexts[:, :5])
        prediction, state = model.step(contexts[:, 5], state)
        after, _ = model.step(contexts[:, 6], state)

    torch.testing.assert_close(short, expected[:, :5], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.stack([prediction, after], dim=1), expected[:, 5:], rtol=1e-5, atol=1e-6)


def test_multiplies_in_the_type_of_autocast(kind):
    torch_class, layer = KINDS[kind]
    layers, states = torch_class(8, 8, batch_first=True), noise(2, 3, 8, dtype=torch.float32)
    assert run_layers(layers, states, layer).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert run_layers(layers, states, layer).dtype == torch.bfloat16


def test_drops_out_between_layers_in_training_only(kind):
    torch_class, layer = KINDS[kind]
    layers = torch_class(8, 8, 2, batch_first=True, dropout=0.5)
    states = noise(2, 6, 8, dtype=torch.float32)

    def run():
        return run_layers(layers, states, layer, dtype=torch.float32)

    assert not torch.equal(run(), run())
    layers.eval()
    torch.testing.assert_close(run(), layers(states)[0])


def test_the_first_layer_of_a_model_learns_its_projection(kind):
    model = build(kind)
    torch.nn.init.normal_(model.output_projection[-1].weight)
    with torch.autocast("cpu", torch.bfloat16):
        model(noise(2, 5, 32, dtype=torch.float32)).square().mean().backward()
    assert model.input_projection.weight.grad.abs().max() > 0
