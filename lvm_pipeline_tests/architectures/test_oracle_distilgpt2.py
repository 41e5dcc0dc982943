"""DistilGPT-2 against transformers' GPT2Model."""

import pytest
import torch

from lvm_pipeline.architectures.distilgpt2 import DistilGpt2Config, Gpt2Mixers
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, build, noise
from lvm_pipeline_tests.architectures.oracles import STACK_TOLERANCE, assert_equals, below, leaf, oracle


@pytest.fixture(scope="module")
def recorded():
    return oracle("gpt2")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, STACK_TOLERANCE)])
def test_layers_equal_the_oracle_and_so_do_the_gradients(recorded, dtype, tolerance):
    mixers = Gpt2Mixers(DistilGpt2Config(hidden_dim=32, num_layers=2, num_heads=4, num_positions=64)).to(dtype)
    mixers.load_state_dict(weight_maps.gpt2_stack(below(recorded, "w")), strict=True)
    inputs = leaf(recorded["in.u"], dtype)

    after_block = mixers.layers[1](mixers.layers[0](mixers.prepare(inputs)))
    assert_equals(after_block, recorded["out.layer0"], tolerance)
    mixed = mixers(inputs)
    assert_equals(mixed, recorded["out.stack"], tolerance)
    (mixed * recorded["in.gout"]).sum().backward()
    assert_equals(inputs.grad, recorded["grad.u"], tolerance)


def test_steps_beyond_the_last_position_are_refused():
    model = build("distilgpt2", num_positions=4)
    contexts = noise(2, 4, VECTOR_DIM, dtype=torch.float32)
    _, state = model.prefill(contexts)
    with pytest.raises(LvmError, match="at most 4 concepts, got 5"):
        model.step(contexts[:, 0], state)
