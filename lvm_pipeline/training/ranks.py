"""One training in several processes (ranks): how they split batches and validation, and what they exchange.

Every rank draws the same batches and takes its part of each. Its loss is weighted by its share of the targets, so that
the averaged gradients are those of the whole batch. The validation split is divided in the same way and the predictions
are gathered, so every rank has each of them exactly once. Only the first rank writes files and reports.

Shapes: B = spans in a batch, S = targets, D = vector width.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.training.averaging import WeightAverage
from lvm_pipeline.training.objectives import TrainingLoss
from lvm_pipeline.training.spans import Spans

LARGE_MODEL = 1_000_000_000  # models with this many parameters are sharded by default


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process and the number of processes that train together; by default one, which exchanges nothing."""

    rank: int = 0  # number of this process
    size: int = 1  # number of processes
    device: str = "cpu"  # device of this process
    are_sharding: bool = False  # whether each rank holds a shard of the weights instead of all

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def for_model(self, num_params: int, *, shard_weights: bool | None) -> "Ranks":
        """Return these ranks with `are_sharding` set: as given, or, if None, for a large model."""
        wanted = num_params >= LARGE_MODEL if shard_weights is None else shard_weights
        return replace(self, are_sharding=wanted and self.size > 1)

    def loss_of(
        self, model: LatentVectorModel, optimiser: torch.optim.Optimizer, average: WeightAverage | None
    ) -> nn.Module:
        """Return the model's `TrainingLoss`; its backward pass averages the gradients of all ranks.

        Every rank holds all weights, starting from the first's, or a shard of weights, average and moments.
        """
        if self.are_sharding:
            from lvm_pipeline.training.sharding import shard

            shard(model, optimiser, average, device=self.device)
        loss = TrainingLoss(model)
        if self.size == 1 or self.are_sharding:
            return loss
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else None
        return DistributedDataParallel(loss, device_ids=devices, find_unused_parameters=True)

    def whole(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Return a context manager inside which this rank has all weights and can run the model on its own."""
        if not self.are_sharding:
            return contextlib.nullcontext()
        from lvm_pipeline.training.sharding import gathered

        return gathered(model)

    def clip_gradients(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the norm of all gradients; return what it was."""
        if not self.are_sharding:
            return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        from lvm_pipeline.training.sharding import clip_gradients

        return clip_gradients(parameters, max_norm)

    def part_of(self, spans: Spans, counts: NDArray[np.int64]) -> tuple[Spans, float]:
        """Return this rank's spans of a batch and the factor of their loss; `counts` are the targets of each span.

        A rank without spans runs the first one with weight 0.
        """
        if self.size == 1:
            return spans, 1.0
        own = np.array_split(np.arange(len(spans)), self.size)[self.rank]
        if not len(own):
            return spans.take(np.array([0])), 0.0
        return spans.take(own), float(self.size * counts[own].sum() / counts.sum())

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all ranks of a detached tensor."""
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of parameters outside the wrapped model."""
        for parameter in parameters if self.size > 1 else ():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.mean(gradient)

    def predicted(
        self, predict: Callable[[Spans], NDArray[np.float32]], spans: Spans, *, width: int
    ) -> NDArray[np.float32]:
        """Return the predictions (S, D) for all spans; each rank computes its part, and all parts are exchanged."""
        if self.size == 1:
            return predict(spans)
        parts = np.array_split(np.arange(len(spans)), self.size)
        own = torch.from_numpy(predict(spans.take(parts[self.rank]))).to(self.device)
        found = []
        for rank, part in enumerate(parts):
            num_targets = int(spans.num_targets[part].sum())
            values = own if rank == self.rank else torch.empty(num_targets, width, device=self.device)
            dist.broadcast(values, src=rank)
            found.append(values.cpu().numpy())
        return np.concatenate(found)

    def agreed(self, value: Any) -> Any:
        """Return the first rank's value, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device(self.device))
        return values[0]

    def seed_apart(self, seed: int, step: int) -> None:
        """Seed every rank but the first differently, for dropout and noise."""
        if not self.is_first:
            torch.manual_seed(hash((seed, step, self.rank)))


@contextlib.contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun or Ray started, on this process's own GPU or, without one, on the CPU."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(device=device)
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    is_mine = not dist.is_initialized()  # Ray Train makes the group itself
    if is_mine:
        _init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), size=size, device=device)
    finally:
        if is_mine:
            dist.destroy_process_group()


def _init_process_group(backend: str) -> None:
    """Join the process group. After a restart, torchrun's store still holds the addresses of the previous processes."""
    store, rank, size = next(dist.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own_store = dist.PrefixStore(f"attempt {attempt}", store)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=own_store, rank=rank, world_size=size)
