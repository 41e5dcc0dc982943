"""The hybrid against transformers' GraniteMoeHybridModel (no positions) and BambaModel (rotation)."""

import pytest
import torch

from lvm_pipeline.architectures.hybrid import HybridConfig, mixers
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, noise, noisy_model
from lvm_pipeline_tests.architectures.oracles import STACK_TOLERANCE, assert_equals, below, error, oracle

ROTARY_FRACTION = {"hybrid_nope": 0.0, "hybrid_block": 0.5}


def with_oracle_weights(recorded, rotary_fraction):
    stack = mixers(
        HybridConfig(
            hidden_dim=32,
            num_layers=6,
            state_dim=16,
            head_dim=16,
            num_heads=4,
            num_key_value_heads=2,
            rotary_fraction=rotary_fraction,
            mlp_dim=48,
        )
    )
    stack.load_state_dict(weight_maps.hybrid_stack(below(recorded, "w")), strict=True)
    return stack


@pytest.mark.parametrize("name", ROTARY_FRACTION)
def test_every_layer_equals_the_oracle(name):
    recorded = oracle(name)
    stack = with_oracle_weights(recorded, ROTARY_FRACTION[name])
    states = recorded["in.u"]
    assert torch.equal(states, recorded["out.hidden0"])
    for layer in range(6):
        states = stack.layers[2 * layer + 1](stack.layers[2 * layer](states))
        expected = recorded[f"out.hidden{layer + 1}"]
        assert_equals(states if layer < 5 else stack.norm(states), expected, STACK_TOLERANCE)
    assert_equals(stack(recorded["in.u"]), recorded["out.stack"], STACK_TOLERANCE)


def test_rotation_shows_in_what_the_oracle_holds():
    recorded = oracle("hybrid_block")
    unrotated = with_oracle_weights(recorded, 0.0)(recorded["in.u"])
    assert error(unrotated, recorded["out.stack"]) > 100 * STACK_TOLERANCE


def test_rotation_continues_where_the_state_ends():
    model, contexts = noisy_model("hybrid", rotary_fraction=0.5), noise(2, 12, VECTOR_DIM)
    first, state = model.prefill(contexts[:, :5])
    second, _ = model.prefill(contexts[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), model(contexts), rtol=0, atol=1e-12)
