"""The parts of an architecture that are timed: one optimiser step on random vectors, and one step from a state.

Shapes: B = batch, T = context in concepts, D = vector width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.objectives import objective_named, training_loss
from lvm_pipeline.training.optimiser import make_optimiser

if TYPE_CHECKING:
    from lvm_pipeline.training.config import TrainingConfig

CONTEXT_LENGTH = 5


class Step(nn.Module):
    """A model that has read all but the last concept of a context, as a model of contexts."""

    def __init__(self, model: LatentVectorModel, device: str):
        """Read all but the last."""
        super().__init__()
        self.model = model
        given = random_vectors(1, CONTEXT_LENGTH - 1, model.config.vector_dim)
        with torch.inference_mode():
            self.state = model.prefill(given.to(device))[1]

    def forward(self, contexts: Tensor, condition: None = None, at: Tensor | None = None) -> Tensor:
        """Read the last concept of (1, T, D) and predict, (1, D)."""
        return self.model.step(contexts[:, -1], self.state)[0]


def optimiser_step(model: LatentVectorModel, config: "TrainingConfig", batch: int, length: int) -> Callable[[], None]:
    """Return a function that makes one optimiser step on the same random batch."""
    device = torch.device(config.device)
    vectors = random_vectors(batch, length + 1, model.config.vector_dim).to(device)
    is_target = torch.zeros(batch, length, dtype=torch.bool, device=device)
    is_target[:, -1 if length == CONTEXT_LENGTH else 0 :] = True
    rows = torch.arange(1, batch * (length + 1) + 1, device=device).view(batch, -1)[:, :-1]
    made = Batch(contexts=vectors[:, :-1], targets=vectors[:, 1:], is_target=is_target, rows=rows)
    optimiser, objective = make_optimiser(model, config), objective_named(config.objective)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with autocast:
            loss = training_loss(model, made, objective)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()

    return step


def num_targets(batch: int, length: int) -> int:
    """Return the targets of a batch: one of each window, every position of an article."""
    return batch if length == CONTEXT_LENGTH else batch * length


def random_vectors(batch: int, length: int, width: int) -> Tensor:
    """Draw unit vectors, (B, T, D)."""
    return F.normalize(torch.randn(batch, length, width), dim=-1)
