"""Base-LCM against the authors' model."""

import pytest
import torch

from lvm_pipeline.architectures.lcm import ARCHITECTURE, LcmConfig
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.oracles import STACK_TOLERANCE, assert_equals, below, leaf, oracle

WIDTHS = {"vector_dim": 24, "hidden_dim": 32, "num_layers": 2, "num_heads": 4}


@pytest.fixture(scope="module")
def recorded():
    return oracle("lcm", "base")


def test_inner_width_follows_the_authors_rule(recorded):
    assert LcmConfig(**WIDTHS).mlp_dim == recorded["ffn_inner"]
    assert LcmConfig().mlp_dim == 5632


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_model_equals_the_oracle_and_so_does_its_gradient(recorded, dtype):
    model = ARCHITECTURE.build_model(LcmConfig(**WIDTHS, head="none", unit_length=False)).eval()
    model.load_state_dict(weight_maps.base_lcm(below(recorded, "w")), strict=True)
    model.to(dtype)
    contexts = leaf(recorded["in.x"], dtype)
    found = model(contexts)
    assert_equals(found, recorded["out.y"], STACK_TOLERANCE)
    (found * recorded["in.gout"]).sum().backward()
    assert_equals(contexts.grad, recorded["grad.x"], STACK_TOLERANCE)
