"""Linformer against lucidrains' package."""

import pytest
import torch

from lvm_pipeline.architectures.linformer import LinformerAttention, LinformerConfig, mixers, reference_attention
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, noise, noisy_model
from lvm_pipeline_tests.architectures.oracles import (
    OPERATOR_TOLERANCE,
    PRECISIONS,
    STACK_TOLERANCE,
    assert_equals,
    below,
    leaf,
    oracle,
)

KINDS = {"plain": {}, "onekv": {"has_one_key_value_head": True}, "sharekv": {"has_values_as_keys": True}}


def attention_of(kind, dtype):
    recorded = oracle("linformer", kind)
    config = LinformerConfig(hidden_dim=32, num_heads=4, num_positions=16, num_sums=6, **KINDS[kind])
    attention = LinformerAttention(config)
    attention.load_state_dict(weight_maps.linformer_attention(below(recorded, "w")), strict=True)
    return attention.to(dtype).eval(), recorded


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("length", [16, 5])
@pytest.mark.parametrize("kind", list(KINDS))
def test_attention_equals_the_oracle_and_in_a_shorter_context_reads_the_first_rows(kind, length, dtype):
    attention, recorded = attention_of(kind, dtype)
    found = attention(recorded[f"L{length}.in.x"].to(dtype))
    assert_equals(found, recorded[f"L{length}.out.y"], OPERATOR_TOLERANCE[dtype])


@pytest.mark.parametrize("kind", list(KINDS))
def test_slow_twin_equals_the_oracle(kind):
    attention, recorded = attention_of(kind, torch.float64)
    found = reference_attention(attention, recorded["L5.in.x"].double())
    assert_equals(found, recorded["L5.out.y"], OPERATOR_TOLERANCE[torch.float64])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, STACK_TOLERANCE)])
def test_layers_equal_the_oracle_and_so_does_the_gradient(dtype, tolerance):
    recorded = oracle("linformer", "net")
    layers = mixers(LinformerConfig(hidden_dim=32, num_layers=2, num_heads=4, mlp_dim=128)).layers
    layers.load_state_dict(weight_maps.linformer_layers(below(recorded, "w")), strict=True)
    inputs = leaf(recorded["in.x"], dtype)
    states = inputs
    for layer in layers.to(dtype):
        states = layer(states)
    assert_equals(states, recorded["out.y"], tolerance)
    (states * recorded["in.gout"]).sum().backward()
    assert_equals(inputs.grad, recorded["grad.x"], tolerance)


def test_every_position_sees_the_whole_window():
    model, contexts = noisy_model("linformer"), noise(1, 5, VECTOR_DIM)
    before = model(contexts)
    for changed in range(5):
        other = contexts.clone()
        other[:, changed] = noise(1, VECTOR_DIM, seed=9)
        assert (model(other) - before).norm(dim=-1).min() > 1e-3


def test_a_context_longer_than_the_window_is_refused():
    with pytest.raises(LvmError, match="at most 5 concepts, got 6"):
        noisy_model("linformer")(noise(1, 6, VECTOR_DIM))
