"""Several trained models as one: the normalised weighted mean of their predictions.

Shapes: M = members, B = batch, T = context in concepts, D = vector width, C = condition width, W = window.

    prediction = normalise(sum_m weight_m * prediction_m)

Each member reads what it was scored with. One that was scored on windows sees the last W concepts before its target
and nothing else, however long the context is; one that was scored on articles sees the whole context. The sum is of
unit length where the members' predictions are. With `neighbours`, the mean residual of similar predictions on the train
articles is added to it (`_neighbours`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._config import ModelConfig, option
from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._neighbours import NeighbourCorrection

Remembered = tuple[Tensor, Tensor | None]  # concepts read so far (B, T, D), and their conditions (B, T, C)


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(ModelConfig):
    """What the members have in common, and the condition that some of them may read."""

    condition_dim: int = option(  # pyright: ignore[reportIncompatibleVariableOverride]  # as in `BackboneConfig`
        0, "Width of the condition beside every concept, for members that read one."
    )
    neighbours: bool = option(False, "Add the mean residual of similar predictions on the train articles.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.unit_length or not self.neighbours, "neighbours", "false where vectors are not of unit length"
        )


@dataclass(frozen=True)
class EnsembleMember:
    """A model, its weight, and the window W that it reads; None: it reads whole articles."""

    model: LatentVectorModel
    weight: float
    window: int | None


class Ensemble(LatentVectorModel):
    """The weighted mean of several models, each reading in its own mode."""

    weights: Tensor

    def __init__(self, config: EnsembleConfig, members: Sequence[EnsembleMember]):
        super().__init__(config)
        self.members = torch.nn.ModuleList(member.model for member in members)
        self.neighbours = NeighbourCorrection(config.vector_dim) if config.neighbours else None
        self.windows = [_readable(member) for member in members]
        self.register_buffer("weights", torch.tensor([member.weight for member in members]))
        self.is_recurrent = None in self.windows
        whole = [each.model.max_context for each in members if each.window is None]
        self.max_context = min((length for length in whole if length is not None), default=None)

    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        return self._mean([self._predict(index, contexts, condition, at) for index in range(len(self.members))])

    def prefill(self, contexts: Tensor, state: Any = None, condition: Tensor | None = None) -> tuple[Tensor, list[Any]]:
        states = [None] * len(self.members) if state is None else state
        found = [self._prefill(index, contexts, each, condition) for index, each in enumerate(states)]
        return self._mean([predictions for predictions, _ in found]), [each for _, each in found]

    def _mean(self, predictions: Sequence[Tensor]) -> Tensor:
        mean = torch.stack([weight * each for weight, each in zip(self.weights, predictions, strict=True)]).sum(0)
        mean = F.normalize(mean, dim=-1) if self.config.unit_length else mean
        return mean if self.neighbours is None else self.neighbours(mean)

    def _predict(self, index: int, contexts: Tensor, condition: Tensor | None, at: Tensor | None) -> Tensor:
        """Return a member's predictions (B, T, D), or (n, D) where `at` is True."""
        model, window = self._member(index), self.windows[index]
        condition = condition if model.config.condition_dim else None
        if window is None:
            return model(contexts, condition, at)
        wanted = torch.ones(contexts.shape[:2], dtype=torch.bool, device=contexts.device) if at is None else at
        found = _predict_windows(model, window, contexts, condition, wanted)
        return found if at is not None else found.view(*contexts.shape[:2], -1)

    def _prefill(self, index: int, contexts: Tensor, state: Any, condition: Tensor | None) -> tuple[Tensor, Any]:
        """Return a member's predictions (B, T, D) after a state, and its state: its own, or the concepts it needs."""
        model, window = self._member(index), self.windows[index]
        if window is None and model.is_recurrent:
            return model.prefill(contexts, state, condition if model.config.condition_dim else None)
        contexts, condition, num_known = _continued(state, contexts, condition)
        at = torch.zeros(contexts.shape[:2], dtype=torch.bool, device=contexts.device)
        at[:, num_known:] = True
        found = self._predict(index, contexts, condition, at).view(len(contexts), -1, contexts.shape[-1])
        kept = slice(None) if window is None else slice(-window, None)
        return found, (contexts[:, kept], None if condition is None else condition[:, kept])

    def _member(self, index: int) -> LatentVectorModel:
        model = self.members[index]
        assert isinstance(model, LatentVectorModel)
        return model


def _readable(member: EnsembleMember) -> int | None:
    """Return how many concepts of its window a member reads: all, or as many as its longest context."""
    if member.window is None:
        return None
    return min(member.window, member.model.max_context or member.window)


def _continued(
    state: Remembered | None, contexts: Tensor, condition: Tensor | None
) -> tuple[Tensor, Tensor | None, int]:
    """Return the remembered concepts with the new ones after them, their conditions, and how many were remembered."""
    if state is None:
        return contexts, condition, 0
    known, known_condition = state
    if condition is not None and known_condition is not None:
        condition = torch.cat([known_condition, condition], dim=1)
    return torch.cat([known, contexts], dim=1), condition, known.shape[1]


def _predict_windows(
    model: LatentVectorModel, window: int, contexts: Tensor, condition: Tensor | None, at: Tensor
) -> Tensor:
    """Predict where `at` (B, T) is True, (n, D), each from the last `window` concepts, or all where there are fewer."""
    rows, positions = at.nonzero(as_tuple=True)
    lengths = (positions + 1).clamp(max=window)
    predictions = contexts.new_empty(len(rows), contexts.shape[-1])
    for length in lengths.unique().tolist():
        same = (lengths == length).nonzero()[:, 0]
        steps = positions[same, None] - length + 1 + torch.arange(length, device=contexts.device)
        own = rows[same, None], steps
        last = torch.zeros(len(same), length, dtype=torch.bool, device=contexts.device)
        last[:, -1] = True
        predictions[same] = model(contexts[own], None if condition is None else condition[own], last).to(
            predictions.dtype
        )
    return predictions
