"""Parts of a training in several processes, tested in one; `lineage/test_launching.py` starts real ones."""

import pytest
import torch
import torch.distributed as dist

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.training.assembly import assemble
from lvm_pipeline.training.batches import gather
from lvm_pipeline.training.objectives import objective_named, training_loss
from lvm_pipeline.training.ranks import Ranks
from lvm_pipeline.training.settle import settled
from lvm_pipeline.training.sharding import clip_gradients
from lvm_pipeline_tests.training.strategies.test_contract import config_of


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("strategy", ["plain", "ranking", "multi_resolution"])
def test_gradients_of_heads_outside_the_forward_pass_are_averaged_too(process_group, data, tmp_path, strategy):
    architecture = load_architecture("gru")
    config = settled(config_of(strategy, precision="float32"), architecture=architecture, is_leaking=False)
    made = assemble(architecture, config, data, compile_cache_dir=tmp_path)
    model, phase = made.model.train(), made.phases[0]
    batch = gather(made.vectors, phase.spans)

    def gradients_of(loss_of):
        model.zero_grad()
        torch.manual_seed(0)
        loss_of(batch, made.terms.around(objective_named(config.objective), phase.terms)).backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    expected = gradients_of(lambda *inputs: training_loss(model, *inputs))
    found = gradients_of(Ranks(size=2).loss_of(model, made.optimiser, None))  # the group has one process

    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_gradients_are_clipped_on_their_own_device_where_no_parameter_is_shared_out():
    parameter = torch.nn.Parameter(torch.ones(3, device="meta"))
    parameter.grad = torch.ones(3, device="meta")
    assert clip_gradients([parameter], 1.0).device.type == "meta"
