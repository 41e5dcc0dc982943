"""RWKV-7 against the authors' memory, time mix, channel mix and blocks."""

import pytest
import torch

from lvm_pipeline.architectures import _delta_rule
from lvm_pipeline.architectures._delta_rule import reference_delta_rule, torch_delta_rule
from lvm_pipeline.architectures._token_shift import previous
from lvm_pipeline.architectures.rwkv import STRONGEST_LOG_DECAY, RwkvConfig, RwkvMixers
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import noise
from lvm_pipeline_tests.architectures.oracles import (
    OPERATOR_TOLERANCE,
    PRECISIONS,
    STACK_TOLERANCE,
    assert_equals,
    below,
    error,
    inputs,
    leaf,
    oracle,
)

ORDER = "rwkvab"


@pytest.fixture(scope="module")
def recorded():
    return oracle("rwkv7")


def memory_arguments(given):
    """Two heads of 64; the factor of the recorded raw decay w is exp(-exp(w))."""
    in_heads = {name: given[name].unflatten(-1, (-1, 64)) for name in ORDER}
    return [-in_heads[name].exp() if name == "w" else in_heads[name] for name in ORDER]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("chunk", [64, 8])
@pytest.mark.parametrize("returns_state", [True, False])
def test_memory_equals_the_oracle_and_so_do_the_gradients(recorded, dtype, chunk, returns_state, monkeypatch):
    monkeypatch.setattr(_delta_rule, "CHUNK", chunk)
    expected, tolerance = below(recorded, "op"), OPERATOR_TOLERANCE[dtype]
    given = inputs(expected, dtype)

    found, state = torch_delta_rule(*memory_arguments(given), returns_state=returns_state)

    assert_equals(found.flatten(-2), recorded["op.out"], tolerance)
    if returns_state:
        assert_equals(state, expected["final_state_KV"], OPERATOR_TOLERANCE[torch.float32])
    (found.flatten(-2) * given["gout"]).sum().backward()
    for name in ORDER:
        assert_equals(given[name].grad, expected[f"grad.{name}"], tolerance)


def test_slow_twin_equals_the_oracle(recorded):
    found = reference_delta_rule(*memory_arguments(inputs(below(recorded, "op"), torch.float64)))
    assert_equals(found.flatten(-2), recorded["op.out"], OPERATOR_TOLERANCE[torch.float64])


def test_memory_is_exact_at_the_strongest_decay_and_any_length():
    r, k, v, a, b = (noise(1, 300, 2, 16, seed=seed) for seed in range(5))
    a = torch.nn.functional.normalize(a, dim=-1)
    arguments = r, torch.full_like(r, STRONGEST_LOG_DECAY), k, v, -a, a * b.sigmoid()
    found, _ = torch_delta_rule(*(part.float() for part in arguments))
    assert error(found, reference_delta_rule(*arguments)) < 1e-5


@pytest.fixture(scope="module")
def mixers(recorded):
    config = RwkvConfig(
        hidden_dim=128, num_layers=2, decay_rank=16, rate_rank=16, value_rank=8, gate_rank=16, mlp_dim=512
    )
    mixers = RwkvMixers(config)
    mixers.load_state_dict(weight_maps.rwkv7_mixers(below(recorded, "w")), strict=True)
    return mixers


def test_time_mix_and_channel_mix_equal_the_oracle(mixers, recorded):
    block, states = mixers.blocks[0], recorded["in.x"]
    normed = block.time_norm(mixers.first_norm(states))
    mixed, _ = block.time_mix.project(normed, previous(normed), None)
    memory, _ = torch_delta_rule(*mixed[:6])
    assert_equals(block.time_mix.project_out(memory, mixed), recorded["out.tmix0"], STACK_TOLERANCE)
    assert_equals(block.channel_mix(states, previous(states)), recorded["out.cmix0"], STACK_TOLERANCE)


def test_blocks_equal_the_oracle_and_so_does_the_gradient(mixers, recorded):
    inputs = leaf(recorded["in.x"], torch.float32)
    states, first_values = mixers.first_norm(inputs), None
    for number, block in enumerate(mixers.blocks):
        states, first_values, _ = block(states, first_values, None, returns_state=False)
        assert_equals(states, recorded[f"out.block{number}"], STACK_TOLERANCE)
    found = mixers(inputs)
    assert_equals(found, recorded["out.stack"], STACK_TOLERANCE)
    (found * recorded["in.gout"]).sum().backward()
    assert_equals(inputs.grad, recorded["grad.x"], STACK_TOLERANCE)
