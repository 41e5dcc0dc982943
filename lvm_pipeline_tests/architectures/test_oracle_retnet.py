"""RetNet against the authors' retention, layer and decoder."""

import pytest
import torch

from lvm_pipeline.architectures import _decayed_attention
from lvm_pipeline.architectures._decayed_attention import decayed_attention, reference_decayed_attention
from lvm_pipeline.architectures._rotary import angles
from lvm_pipeline.architectures.retnet import RetNetConfig, log_gamma, mixers, pair_frequencies
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.oracles import (
    OPERATOR_TOLERANCE,
    PRECISIONS,
    assert_equals,
    below,
    inputs,
    leaf,
    oracle,
)

LAYER_TOLERANCE = 2e-4  # theirs differ so much among themselves: the norm of each head divides small numbers
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recorded():
    return oracle("retention")


@pytest.mark.parametrize("case", ["L5", "L37"])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("chunk", [64, 16])
def test_retention_equals_the_oracle_and_so_do_the_gradients(recorded, case, dtype, chunk, monkeypatch):
    monkeypatch.setattr(_decayed_attention, "CHUNK", chunk)
    expected, tolerance = below(recorded, case), OPERATOR_TOLERANCE[dtype]
    given = inputs(expected, dtype)
    queries, keys, values = (given[name].transpose(1, 2) for name in "qkv")
    scale = keys.shape[-1] ** -0.5
    log_decay = log_gamma(keys.shape[2], CPU).to(dtype).expand(1, keys.shape[1], -1)

    found, state = decayed_attention(queries, scale * keys, values, log_decay=log_decay, returns_state=True)

    assert_equals(found.transpose(1, 2), expected["out.o"], tolerance)
    assert_equals(found.transpose(1, 2), expected["out.o_fla_naive"], OPERATOR_TOLERANCE[torch.float32])
    assert_equals(state / scale, expected["out.final_state"], OPERATOR_TOLERANCE[torch.float32])
    (found.transpose(1, 2) * given["gout"]).sum().backward()
    for name in "qkv":
        assert_equals(given[name].grad, expected[f"grad.{name}"], tolerance)


def test_slow_twin_equals_the_oracle(recorded):
    expected = below(recorded, "L37")
    queries, keys, values = (expected[f"in.{name}"].double().transpose(1, 2) for name in "qkv")
    log_decay = recorded["log_decay"].expand(1, keys.shape[1], -1)
    found = reference_decayed_attention(queries, keys * keys.shape[-1] ** -0.5, values, log_decay=log_decay)
    assert_equals(found.transpose(1, 2), expected["out.o"], OPERATOR_TOLERANCE[torch.float64])


def test_decays_and_angles_equal_the_oracle(recorded):
    decays = log_gamma(3, CPU)
    assert_equals(decays, recorded["log_decay"], OPERATOR_TOLERANCE[torch.float64])
    for name in ("relpos.decay", "w.retnet_rel_pos.decay"):
        assert_equals(decays, recorded[name], OPERATOR_TOLERANCE[torch.float32])
    frequencies = pair_frequencies(8, CPU)
    for name in ("relpos.angle", "w.retnet_rel_pos.angle"):
        assert_equals(frequencies.repeat_interleave(2), recorded[name], OPERATOR_TOLERANCE[torch.float32])
    turn = angles(24, frequencies).repeat_interleave(2, dim=-1)
    assert_equals(turn.sin(), recorded["relpos.sin"], OPERATOR_TOLERANCE[torch.float32])
    assert_equals(turn.cos(), recorded["relpos.cos"], OPERATOR_TOLERANCE[torch.float32])


def test_what_is_left_out_of_the_mask_is_a_factor_of_each_row(recorded):
    lags = torch.arange(24)[:, None] - torch.arange(24)
    fading = (log_gamma(3, CPU)[:, None, None] * lags).exp().tril()
    theirs = fading / fading.sum(-1, keepdim=True).sqrt()
    assert_equals(theirs, recorded["relpos.mask"], OPERATOR_TOLERANCE[torch.float32])


@pytest.fixture(scope="module")
def stack(recorded):
    stack = mixers(RetNetConfig(hidden_dim=48, num_layers=2, num_heads=3, value_dim=96, mlp_dim=64))
    stack.load_state_dict(weight_maps.retnet_stack(below(recorded, "w")), strict=True)
    return stack


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise8"])
def test_layer_equals_the_oracle_in_all_forms(stack, recorded, form, monkeypatch):
    monkeypatch.setattr(_decayed_attention, "CHUNK", {"chunkwise8": 8}.get(form, 64))
    states, retention = recorded["layer.in.x"], stack.layers[0].inner
    if form == "recurrent":
        state, found = None, []
        for t in range(states.shape[1]):
            one, state = retention.prefill(states[:, t : t + 1], state)
            found.append(one)
        found = torch.cat(found, dim=1)
    else:
        found = retention(states)
    assert_equals(found, recorded[f"layer.out.{form}"], LAYER_TOLERANCE)


def test_decoder_equals_the_oracle_and_so_does_its_gradient(stack, recorded):
    states = leaf(recorded["layer.in.x"], torch.float32)
    assert_equals(stack.layers[1](stack.layers[0](states)), recorded["stack.out.layer0"], LAYER_TOLERANCE)
    found = stack(states)
    assert_equals(found, recorded["stack.out.h"], LAYER_TOLERANCE)
    (found * recorded["stack.in.gout"]).sum().backward()
    assert_equals(states.grad, recorded["stack.grad.x"], LAYER_TOLERANCE)
