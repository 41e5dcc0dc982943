"""Mamba-2 against the authors' state space model and transformers' Mamba2Model."""

import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.architectures import _decayed_attention
from lvm_pipeline.architectures._mamba2_mixer import reference_selective_state_space, torch_state_space
from lvm_pipeline.architectures.mamba2 import Mamba2Config, mixers
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.oracles import (
    OPERATOR_TOLERANCE,
    PRECISIONS,
    STACK_TOLERANCE,
    assert_equals,
    below,
    inputs,
    leaf,
    oracle,
)

ORDER = ("x", "dt", "A", "B", "C", "D")


@pytest.fixture(params=["L5", "L37", "L48"])
def ssd(request):
    return oracle("ssd", request.param)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("chunk", [64, 16, 5])
def test_state_space_equals_the_oracle_and_so_do_the_gradients(ssd, dtype, chunk, monkeypatch):
    monkeypatch.setattr(_decayed_attention, "CHUNK", chunk)
    given = inputs(ssd, dtype)
    arguments = [given[name] for name in ORDER]
    start = given["initial_state"].mT if "initial_state" in given else None
    tolerance = OPERATOR_TOLERANCE[dtype]

    y, state = torch_state_space(*arguments, dt_bias=given["dt_bias"], state=start, returns_state=True)
    y_without_skip, _ = torch_state_space(
        *arguments[:-1], torch.zeros_like(given["D"]), dt_bias=given["dt_bias"], state=start
    )

    assert_equals(F.softplus(given["dt"] + given["dt_bias"]), ssd["out.dt"], tolerance)
    assert_equals(y, ssd["out.y"], tolerance)
    assert_equals(y_without_skip, ssd["out.y_noD"], tolerance)
    assert_equals(state.mT, ssd["out.final_state"], tolerance)
    (y * given["gout"]).sum().backward()
    gradients = below(ssd, "grad")
    assert set(gradients) == {*ORDER, "dt_bias"}
    for name, expected in gradients.items():
        assert_equals(given[name].grad, expected, tolerance)


def test_slow_twin_equals_the_oracle():
    ssd = oracle("ssd", "L48")
    given = inputs(ssd, torch.float64)
    y = reference_selective_state_space(*(given[name] for name in ORDER), dt_bias=given["dt_bias"])
    assert_equals(y, ssd["out.y"], OPERATOR_TOLERANCE[torch.float64])


@pytest.fixture(scope="module")
def block():
    return oracle("mamba2_block")


@pytest.fixture(scope="module")
def stack(block):
    config = Mamba2Config(hidden_dim=32, num_layers=2, state_dim=16, head_dim=16, num_groups=2)
    stack = mixers(config)
    stack.load_state_dict(weight_maps.mamba2_stack(below(block, "w")), strict=True)
    return stack


def test_mixer_and_layers_equal_the_oracle(stack, block):
    assert_equals(stack.layers[0].inner(block["in.u"]), block["out.mixer"], STACK_TOLERANCE)
    assert_equals(stack.layers[0](block["in.u"]), block["out.layer0"], STACK_TOLERANCE)
    assert_equals(stack(block["in.u"]), block["out.stack"], STACK_TOLERANCE)


def test_gradients_of_the_layers_equal_the_oracle(stack, block):
    stack.zero_grad()
    states = leaf(block["in.u"], torch.float32)
    (stack(states) * block["in.gout"]).sum().backward()
    assert_equals(states.grad, block["grad.u"], STACK_TOLERANCE)
    expected = weight_maps.mamba2_stack(below(block, "grad.w"))
    assert set(expected) == {name for name, _ in stack.named_parameters()}
    for name, parameter in stack.named_parameters():
        assert_equals(parameter.grad, expected[name], STACK_TOLERANCE)
