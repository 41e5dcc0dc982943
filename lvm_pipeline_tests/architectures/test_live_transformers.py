"""Ours against the models that transformers builds here and now, with their weights copied over."""

import pytest
import torch

from lvm_pipeline.architectures import distilgpt2, hybrid, mamba2, rwkv4
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import noise, redraw
from lvm_pipeline_tests.architectures.oracles import STACK_TOLERANCE, assert_equals

pytestmark = pytest.mark.slow

WIDTH = 64
GRADIENT_TOLERANCE = 10 * STACK_TOLERANCE  # sums over all positions and layers, in float32


def mamba2_pair(transformers):
    theirs = transformers.Mamba2Model(
        transformers.Mamba2Config(
            vocab_size=8,
            hidden_size=WIDTH,
            num_hidden_layers=3,
            num_heads=8,
            head_dim=16,
            state_size=32,
            n_groups=2,
            chunk_size=16,
        )
    )
    ours = mamba2.mixers(mamba2.Mamba2Config(hidden_dim=WIDTH, num_layers=3, head_dim=16, state_dim=32, num_groups=2))
    return theirs, ours, weight_maps.mamba2_stack


def gpt2_pair(transformers):
    theirs = transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=8, n_positions=128, n_embd=WIDTH, n_layer=3, n_head=4)
    )
    ours = distilgpt2.Gpt2Mixers(
        distilgpt2.DistilGpt2Config(hidden_dim=WIDTH, num_layers=3, num_heads=4, num_positions=128)
    )
    return theirs, ours, weight_maps.gpt2_stack


def bamba_pair(transformers):
    theirs = transformers.BambaModel(
        transformers.BambaConfig(
            vocab_size=8,
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_layer_indices=[5],
            mamba_n_heads=8,
            mamba_d_head=16,
            mamba_d_state=32,
            mamba_chunk_size=16,
        )
    )
    ours = hybrid.mixers(
        hybrid.HybridConfig(
            hidden_dim=WIDTH,
            num_layers=6,
            state_dim=32,
            head_dim=16,
            num_heads=4,
            num_key_value_heads=2,
            rotary_fraction=0.5,
            mlp_dim=96,
        )
    )
    return theirs, ours, weight_maps.hybrid_stack


def rwkv4_pair(transformers):
    theirs = transformers.RwkvModel(
        transformers.RwkvConfig(vocab_size=8, hidden_size=WIDTH, num_hidden_layers=3, rescale_every=0)
    )
    ours = rwkv4.Rwkv4Mixers(rwkv4.Rwkv4Config(hidden_dim=WIDTH, num_layers=3, mlp_dim=4 * WIDTH))
    return theirs, ours, weight_maps.rwkv4_mixers


@pytest.mark.parametrize("pair", [mamba2_pair, gpt2_pair, bamba_pair, rwkv4_pair])
@pytest.mark.parametrize("length", [1, 5, 37, 100])
def test_layers_and_their_gradients_equal_those_of_transformers(pair, length, transformers):
    theirs, ours, weight_map = pair(transformers)
    redraw(theirs.eval())
    ours.eval().load_state_dict(weight_map(theirs.state_dict()), strict=True)
    states, weights = noise(2, length, WIDTH, dtype=torch.float32), noise(2, length, WIDTH, seed=2, dtype=torch.float32)
    read_by_theirs, read_by_ours = (states.clone().requires_grad_() for _ in range(2))

    expected = theirs(inputs_embeds=read_by_theirs, use_cache=False).last_hidden_state
    found = ours(read_by_ours)
    for outputs in (expected, found):
        (outputs * weights).sum().backward()

    assert_equals(found, expected, STACK_TOLERANCE)
    assert_equals(read_by_ours.grad, read_by_theirs.grad, GRADIENT_TOLERANCE)
    gradients = weight_map({name: each.grad for name, each in theirs.named_parameters() if each.grad is not None})
    parameters = dict(ours.named_parameters())
    assert gradients.keys() <= parameters.keys()
    assert length == 1 or gradients.keys() == parameters.keys()  # on one position, what decays it has no part in it
    for name, parameter in parameters.items():
        nothing = torch.zeros_like(parameter)
        found = nothing if parameter.grad is None else parameter.grad
        assert_equals(found, gradients.get(name, nothing), GRADIENT_TOLERANCE)


@pytest.mark.parametrize("pair", [mamba2_pair, gpt2_pair, bamba_pair, rwkv4_pair])
def test_steps_equal_the_whole_context_of_transformers(pair, transformers):
    theirs, ours, weight_map = pair(transformers)
    redraw(theirs.eval())
    ours.eval().load_state_dict(weight_map(theirs.state_dict()), strict=True)
    states, state, found = noise(2, 12, WIDTH, dtype=torch.float32), None, []
    with torch.no_grad():
        for position in states.split(1, dim=1):
            mixed, state = ours.prefill(position, state)
            found.append(mixed)
        expected = theirs(inputs_embeds=states, use_cache=False).last_hidden_state

    assert_equals(torch.cat(found, dim=1), expected, STACK_TOLERANCE)
