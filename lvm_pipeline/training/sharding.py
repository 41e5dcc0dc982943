"""Shard weights, gradients and optimiser state across ranks (FSDP2).

Every layer of the stack is gathered when it runs and freed afterwards, so a device holds its shard and one layer. For
validation, which every rank runs on its own batches, all weights are gathered at once.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lvm_pipeline.architectures._stack import ResidualStack
from lvm_pipeline.training.averaging import WeightAverage


def shard(
    model: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage | None = None, *, device: str
) -> None:
    """Shard the weights, their average and the optimiser moments, which are equal on all ranks before."""
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    whole_parameters = dict(model.named_parameters())
    for stack in [module for module in model.modules() if isinstance(module, ResidualStack)]:
        for layer in stack.layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    named = model.named_parameters()
    sharded: dict[Tensor, nn.Parameter] = {whole_parameters[name]: parameter for name, parameter in named}
    for group in optimiser.param_groups:
        group["params"] = [sharded.get(parameter, parameter) for parameter in group["params"]]
    for parameter, moments in list(optimiser.state.items()):
        if parameter in sharded:
            own = sharded[parameter]
            optimiser.state[own] = {name: _like(own, moment) for name, moment in moments.items()}
            del optimiser.state[parameter]
    if average is not None:
        for name, parameter in model.named_parameters():
            average.weights[name] = _like(parameter, average.weights[name])


def _like(parameter: nn.Parameter, moment: Tensor) -> Tensor:
    """Shard a moment like its parameter; the number of steps, a scalar, stays whole on every rank."""
    if not isinstance(parameter, DTensor) or moment.shape != parameter.shape:
        return moment
    return distribute_tensor(moment, parameter.device_mesh, parameter.placements)


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Gather all weights inside the block, so that a rank can run the model on its own."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the norm of all gradients, sharded or not; return the norm before, which is equal on every rank."""
    kinds = [[each for each in parameters if isinstance(each, DTensor) is is_sharded] for is_sharded in (True, False)]
    gradients = [[each.grad for each in some if each.grad is not None] for some in kinds]
    found = [torch.nn.utils.get_total_norm(some) for some in gradients if some]  # that of none would be on the CPU
    norms = [each.full_tensor() if isinstance(each, DTensor) else each for each in found]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    for some in kinds:
        torch.nn.utils.clip_grads_with_norm_(some, max_norm, norm)
    return norm
