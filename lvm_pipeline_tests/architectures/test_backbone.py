import pytest
import torch
from torch import nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import HEADS, BackboneConfig
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures.models import NAMES, build, loss_on, noise, noisy_model, redraw

CONFIG = {"vector_dim": 8, "hidden_dim": 6}


class NoMixers(nn.Module):
    def forward(self, states, at=None):
        return states if at is None else states[at]


def backbone(*, max_context=None, **fields):
    return Backbone(BackboneConfig(**CONFIG, **fields), NoMixers(), max_context=max_context)


def test_vectors_of_any_length_are_predicted_where_the_space_is_not_of_unit_length():
    contexts = 3 * noise(2, 4, 8, dtype=torch.float32)
    model = backbone(unit_length=False)
    model.set_weighted_mean(decay=0.0, article_weight=0.0)
    torch.testing.assert_close(model(contexts), contexts)
    torch.testing.assert_close(backbone()(contexts).norm(dim=-1), torch.ones(2, 4))


def test_the_correction_is_narrowed_to_its_rank():
    model = redraw(backbone(correction_rank=2, head="none", unit_length=False))
    predictions = model(noise(1, 40, 8, dtype=torch.float32))[0]
    assert torch.linalg.matrix_rank(predictions - predictions.mean(dim=0), rtol=1e-4) == 2


def test_a_condition_modulates_each_position():
    model = redraw(backbone(condition_dim=3, head="none"))
    contexts, condition = noise(2, 4, 8, dtype=torch.float32), noise(2, 4, 3, seed=2, dtype=torch.float32)
    changed = condition.clone()
    changed[:, 2] += 1
    before, after = model(contexts, condition), model(contexts, changed)
    assert (before[:, 2] - after[:, 2]).norm(dim=-1).min() > 1e-3
    torch.testing.assert_close(before[:, [0, 1, 3]], after[:, [0, 1, 3]])


def test_a_fresh_condition_changes_nothing():
    model = backbone(condition_dim=3, head="none")
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


@pytest.mark.parametrize("head", ["mixing", "means"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "lcm_two_tower"])
def test_mixers_are_not_run_where_they_have_no_effect_yet(name, head):
    model, contexts = build(name, head=head).eval(), noise(2, 5, 32, dtype=torch.float32)
    at = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    calls = []
    assert isinstance(model, Backbone)
    model.mixers.register_forward_hook(lambda *_: calls.append(1))
    expected = model(contexts), model(contexts, None, at)
    with model.without_idle_mixers():
        found = model(contexts), model(contexts, None, at)
    assert len(calls) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    model(contexts)
    assert len(calls) == 3


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("changed", ["output_projection", "residual_head"])
def test_mixers_that_have_an_effect_are_run(head, changed):
    model, contexts = build("lstm", head=head).eval(), noise(2, 5, 32, dtype=torch.float32)
    if head != "none":
        redraw(getattr(model, changed))
    expected = model(contexts)
    with model.without_idle_mixers():
        assert torch.equal(model(contexts), expected)


def test_without_a_head_there_is_no_arithmetic_to_set():
    model = backbone(head="none")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.set_weighted_mean(decay=0.1, article_weight=0.2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_states_are_dropped_out_in_training_only():
    contexts = noise(1, 30, 8, dtype=torch.float32)
    model = redraw(backbone(dropout=0.5, head="none", unit_length=False)).train()
    assert not torch.equal(model(contexts), model(contexts))
    without = redraw(backbone(head="none", unit_length=False)).train()
    torch.testing.assert_close(without(contexts), model.eval()(contexts))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NAMES)
def test_predictions_at_some_positions_are_those_among_all(name, head):
    model = noisy_model(name, head=head).requires_grad_()
    contexts, weights = noise(3, 5, 32), noise(5, 32, seed=2)
    at = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    found, expected = model(contexts, None, at), model(contexts)[at]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    parameters = list(model.parameters())
    pairs = [
        torch.autograd.grad((each * weights).sum(), parameters, allow_unused=True, retain_graph=True)
        for each in (found, expected)
    ]
    for one, other in zip(*pairs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_calls_the_model_once_so_that_hooks_of_a_wrapper_fire(name):
    model, calls = build(name).train(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    contexts = noise(2, 5, 32, dtype=torch.float32)
    loss_on(model, contexts, contexts, torch.ones(2, 5, dtype=torch.bool)).backward()
    assert calls == [1]


@pytest.mark.slow
@pytest.mark.long  # compiling takes minutes
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("name", ["rwkv4", "lcm_two_tower"])
def test_torch_compile_sees_a_module_and_trains_it(name):
    model = redraw(build(name, dropout=0.0)).train()
    contexts, at = noise(4, 5, 32, dtype=torch.float32), torch.zeros(4, 5, dtype=torch.bool)
    at[:, -1] = True
    losses, gradients = [], []
    for each in (model, torch.compile(model)):
        torch.manual_seed(0)
        model.zero_grad()
        losses.append(loss_on(each, contexts, contexts.flip(1), at))
        losses[-1].backward()
        gradients.append({key: None if p.grad is None else p.grad.clone() for key, p in model.named_parameters()})
    if name != "lcm_two_tower":  # compiled code draws other random numbers
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    assert gradients[0].keys() == {key for key, value in gradients[1].items() if value is not None} | {
        key for key, value in gradients[0].items() if value is None
    }
