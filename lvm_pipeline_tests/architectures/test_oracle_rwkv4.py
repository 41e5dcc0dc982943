"""RWKV-4 against transformers' RwkvModel."""

import pytest
import torch

from lvm_pipeline.architectures import _wkv
from lvm_pipeline.architectures._wkv import Sums, reference_weighted_key_values, weighted_key_values
from lvm_pipeline.architectures.rwkv4 import Rwkv4Config, Rwkv4Mixers
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

ORDER = ("time_decay", "time_first", "key", "value")


@pytest.fixture(scope="module")
def recorded():
    return oracle("rwkv4")


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("longest_loop", [64, 2])
@pytest.mark.parametrize("split", [0, 9])
def test_weighted_mean_equals_the_oracle_and_so_do_the_gradients(recorded, dtype, longest_loop, split, monkeypatch):
    monkeypatch.setattr(_wkv, "LONGEST_LOOP", longest_loop)
    given, tolerance = inputs(below(recorded, "wkv"), dtype), OPERATOR_TOLERANCE[dtype]
    decay, bonus, keys, values = (given[name] for name in ORDER)

    sums, found = None, []
    for part in (slice(0, split), slice(split, None)) if split else (slice(None),):
        output, sums = weighted_key_values(-decay.exp(), bonus, keys[:, part], values[:, part], sums=sums)
        found.append(output)
    found = torch.cat(found, dim=1)

    assert_equals(found, recorded["wkv.out"], tolerance)
    for ours, theirs in zip(sums, ("num", "den", "max"), strict=True):
        assert_equals(ours, recorded[f"wkv.state.{theirs}"], tolerance)
    (found * given["gout"]).sum().backward()
    for name in ORDER:
        assert_equals(given[name].grad, recorded[f"wkv.grad.{name}"], tolerance)


def test_slow_twin_equals_the_oracle(recorded):
    decay, bonus, keys, values = (recorded[f"wkv.in.{name}"].double() for name in ORDER)
    found = reference_weighted_key_values(-decay.exp(), bonus, keys, values)
    assert_equals(found, recorded["wkv.out"], OPERATOR_TOLERANCE[torch.float64])


@pytest.mark.parametrize("length", [17, 25, 64, 200])
def test_weighted_mean_is_exact_at_any_length_and_for_any_keys(length):
    keys, values = 40 * noise(1, length, 8), noise(1, length, 8, seed=2)
    decay, bonus = -noise(8, seed=3).exp() * torch.tensor([1e-4, 1e-2, 0.1, 1, 2, 5, 20, 100]), noise(8, seed=4)
    found, sums = weighted_key_values(*(part.float() for part in (decay, bonus, keys, values)))
    assert error(found, reference_weighted_key_values(decay, bonus, keys, values)) < 1e-4
    looped = Sums(*(torch.zeros(1, 8, dtype=torch.float64),) * 2, torch.full((1, 8), _wkv.LOWEST).double())
    for key, value in zip(keys.unbind(1), values.unbind(1), strict=True):
        looped = looped.plus(value, 1.0, key, fading=decay)
    for ours, expected in zip(sums, looped, strict=True):
        assert error(ours, expected) < 1e-4


@pytest.fixture(scope="module")
def mixers(recorded):
    mixers = Rwkv4Mixers(Rwkv4Config(hidden_dim=32, num_layers=2, mlp_dim=128))
    mixers.load_state_dict(weight_maps.rwkv4_mixers(below(recorded, "w")), strict=True)
    return mixers


def test_blocks_equal_the_oracle_and_so_does_the_gradient(mixers, recorded):
    inputs = leaf(recorded["in.u"], torch.float32)
    states = mixers.first_norm(inputs)
    for layer in mixers.layers:
        states = layer(states)
    # Recorded as the second of transformers' hidden states, of which the first is already the output of block 0.
    assert_equals(states, recorded["out.layer0"], STACK_TOLERANCE)
    found = mixers(inputs)
    assert_equals(found, recorded["out.stack"], STACK_TOLERANCE)
    (found * recorded["in.gout"]).sum().backward()
    assert_equals(inputs.grad, recorded["grad.u"], STACK_TOLERANCE)
