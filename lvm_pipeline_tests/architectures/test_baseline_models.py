"""What the baseline models promise; a new one in the folder is tested without an edit here."""

import numpy as np
import pytest
import torch

from lvm_pipeline.architectures._contract import num_params_of
from lvm_pipeline.architectures._registry import (
    ARCHITECTURES,
    all_model_names,
    architecture_names,
    architectures_named,
    baseline_model_names,
)
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, build, noise, redraw

NAMES = baseline_model_names()


@pytest.fixture(params=NAMES)
def model(request):
    found = redraw(build(request.param))
    found.fit(noise(60, VECTOR_DIM, seed=3, dtype=torch.float32))
    return found.double().eval()


def test_they_stand_beside_the_architectures():
    assert "mixing" in NAMES
    assert not set(NAMES) & set(architecture_names())
    assert all_model_names() == [*architecture_names(), *NAMES]
    assert architectures_named("all") == architecture_names()
    assert architectures_named("mixing, gru") == ["mixing", "gru"]
    with pytest.raises(LvmError, match=r"baseline models .*mixing"):
        architectures_named("mixin")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_has_its_declared_size_and_kind(name):
    architecture = ARCHITECTURES[name]
    assert architecture.kind == "baseline model"
    for preset in architecture.presets.values():
        assert num_params_of(architecture, preset.config) == preset.num_params


def test_agrees_with_its_reference(model, request):
    contexts = noise(2, 9, VECTOR_DIM)
    name = request.node.callspec.params["model"]
    torch.testing.assert_close(model(contexts), ARCHITECTURES[name].reference(model, contexts), rtol=0, atol=1e-10)


def test_noise_in_the_future_changes_nothing(model):
    contexts = noise(2, 30, VECTOR_DIM)
    before = model(contexts)
    for start in (1, 7, 29):
        after = model(torch.cat([contexts[:, :start], 10 * noise(2, 30 - start, VECTOR_DIM, seed=9)], dim=1))
        torch.testing.assert_close(after[:, :start], before[:, :start], rtol=0, atol=1e-11)
        assert not torch.allclose(after[:, start:], before[:, start:], atol=1e-3)
    torch.testing.assert_close(model(contexts[:, :11]), before[:, :11], rtol=0, atol=1e-11)


def test_steps_agree_with_the_parallel_form(model):
    contexts, state, found = noise(3, 21, VECTOR_DIM), None, []
    for vectors in contexts.unbind(1):
        prediction, state = model.step(vectors, state)
        found.append(prediction)
    torch.testing.assert_close(torch.stack(found, dim=1), model(contexts), rtol=0, atol=1e-11)


def test_predictions_at_some_positions_are_those_among_all(model):
    contexts = noise(3, 5, VECTOR_DIM)
    at = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    torch.testing.assert_close(model(contexts, None, at), model(contexts)[at], rtol=0, atol=1e-12)


def test_predictions_are_of_unit_length_where_the_space_is(model):
    np.testing.assert_allclose(model(noise(2, 3, VECTOR_DIM)).detach().norm(dim=-1), 1, atol=1e-9)
