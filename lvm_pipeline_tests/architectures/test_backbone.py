import pytest
import torch
from torch import nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._contract import LatentVectorModel, ModelConfig
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.objectives import objective_named
from lvm_pipeline_tests.architectures.models import NAMES, noise, noisy_model, redraw

CONFIG = {"vector_dim": 8, "hidden_dim": 6}


def backbone(*, max_context=None, **fields):
    return Backbone(ModelConfig(**CONFIG, **fields), nn.Identity(), max_context=max_context)


def test_vectors_of_any_length_are_predicted_where_the_space_is_not_of_unit_length():
    contexts = 3 * noise(2, 4, 8, dtype=torch.float32)
    model = backbone(unit_length=False)
    model.set_arithmetic(decay=0.0, article_weight=0.0)
    torch.testing.assert_close(model(contexts), contexts)
    torch.testing.assert_close(backbone()(contexts).norm(dim=-1), torch.ones(2, 4))


def test_the_correction_is_narrowed_to_its_rank():
    model = redraw(backbone(correction_rank=2, residual_head=False, unit_length=False))
    predictions = model(noise(1, 40, 8, dtype=torch.float32))[0]
    assert torch.linalg.matrix_rank(predictions - predictions.mean(dim=0), rtol=1e-4) == 2


def test_a_condition_modulates_each_position():
    model = redraw(backbone(condition_dim=3, residual_head=False))
    contexts, condition = noise(2, 4, 8, dtype=torch.float32), noise(2, 4, 3, seed=2, dtype=torch.float32)
    changed = condition.clone()
    changed[:, 2] += 1
    before, after = model(contexts, condition), model(contexts, changed)
    assert (before[:, 2] - after[:, 2]).norm(dim=-1).min() > 1e-3
    torch.testing.assert_close(before[:, [0, 1, 3]], after[:, [0, 1, 3]])


def test_a_fresh_condition_changes_nothing():
    model = backbone(condition_dim=3, residual_head=False)
    contexts = noise(2, 4, 8, dtype=torch.float32)
    torch.testing.assert_close(model(contexts, torch.zeros(2, 4, 3)), model(contexts, torch.ones(2, 4, 3)))


def test_a_missing_condition_is_refused():
    with pytest.raises(LvmError, match="width 3"):
        backbone(condition_dim=3)(noise(1, 2, 8, dtype=torch.float32))


def test_a_context_beyond_the_longest_is_refused():
    model = backbone(max_context=5)
    assert model(noise(1, 5, 8, dtype=torch.float32)).shape == (1, 5, 8)
    with pytest.raises(LvmError, match="at most 5 concepts, got 6"):
        model(noise(1, 6, 8, dtype=torch.float32))


def test_without_a_head_there_is_no_arithmetic_to_set():
    model = backbone(residual_head=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.set_arithmetic(decay=0.1, article_weight=0.2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_states_are_dropped_out_in_training_only():
    contexts = noise(1, 30, 8, dtype=torch.float32)
    model = redraw(backbone(dropout=0.5, residual_head=False, unit_length=False)).train()
    assert not torch.equal(model(contexts), model(contexts))
    without = redraw(backbone(residual_head=False, unit_length=False)).train()
    torch.testing.assert_close(without(contexts), model.eval()(contexts))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_all_predictions_though_only_those_with_a_target_are_made(name):
    model = noisy_model(name, residual_head=True)
    if type(model).loss is not Backbone.loss:
        pytest.skip("has a loss of its own")
    contexts, targets = noise(3, 5, 32), noise(3, 5, 32, seed=2)
    is_target = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    objective = objective_named("cosine")
    expected = LatentVectorModel.loss(model, contexts, targets, is_target, objective=objective)
    found = model.loss(contexts, targets, is_target, objective=objective)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    parameters = list(model.parameters())
    pairs = zip(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
