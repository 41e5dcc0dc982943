"""The context that a trained model keeps while it reads an article.

A model whose scores were measured on windows reads the last T concepts again at every step. One that reads
articles carries its state from concept to concept where it has one; else it reads the article so far again. Where
an article outgrows the longest context, the model goes on from its last half, cut as in training and evaluation, so
that every prediction is the one that a report would score.

Shapes: T = context in concepts, D = vector width.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.architectures._contract import LatentVectorModel, at_last_position
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.data import Spans
from lvm_pipeline.training.trained_model import TrainedModelInfo

Concept = tuple[Tensor, Tensor | None]  # a vector (D,) and a condition (C,)


def refuse_oracle(info: TrainedModelInfo) -> None:
    """Refuse a model that reads its own targets, which are not known yet when it predicts.

    Raises:
        LvmError: If it reads something of its targets.
    """
    if info.is_oracle:
        raise LvmError(
            f"The model of {info.trial_id} reads the TMD code of its own target, which is not known before the "
            "target is; use a model with tmd_of: context."
        )


def refuse_not_finite(predictions: NDArray[np.float32], info: TrainedModelInfo) -> None:
    """Check that every number of the predictions is finite.

    Raises:
        LvmError: If one is not.
    """
    if not np.isfinite(predictions).all():
        raise LvmError(
            f"The model of {info.trial_id} predicted a number that is not finite; the numbers of its input are too "
            "large, or it has to be trained again."
        )


class ReadingModel:
    """A model that reads one concept at a time; `num_read` counts those of the current article."""

    def __init__(self, model: LatentVectorModel, *, window: int | None):
        """Start an article; `window` is T where the model reads windows, None where it reads articles."""
        self.model = model.eval()
        self.device = next(model.parameters()).device
        self.carries_state = model.is_recurrent and window is None
        self.longest, self.num_forgotten = _limits(window, model.max_context)
        self.start_article()

    def start_article(self) -> None:
        self.num_read = 0
        self._state: Any = None
        self._context: list[Concept] = []

    @property
    def num_remembered(self) -> int:
        return len(self._context) if self._keeps_context else self.num_read

    @property
    def _keeps_context(self) -> bool:
        return not self.carries_state or self.longest is not None

    @torch.inference_mode()
    def read(self, vector: NDArray[np.float32], condition: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Read the next concept of the article, (D,), with its condition (C,) if any; predict the next one."""
        concept = (
            torch.from_numpy(vector).to(self.device),
            None if condition is None else torch.from_numpy(condition).to(self.device),
        )
        self.num_read += 1
        if self._keeps_context:
            self._context.append(concept)
        if self.longest is not None and len(self._context) > self.longest:
            self._context = self._context[self.num_forgotten :]
            self._state = None
        return self._predict(concept).float().cpu().numpy()

    def _predict(self, concept: Concept) -> Tensor:
        if not self.carries_state:
            contexts, condition = _stacked(self._context)
            return self.model(contexts, condition, at_last_position(contexts))[0]
        if self._state is None and self._context:
            contexts, condition = _stacked(self._context)
            predictions, self._state = self.model.prefill(contexts, condition=condition)
            return predictions[0, -1]
        vector, beside = concept
        prediction, self._state = self.model.step(vector[None], self._state, None if beside is None else beside[None])
        return prediction[0]


def num_remembered(num_read: int, *, window: int | None, max_context: int | None) -> int:
    """Return how many of the concepts read so far a prediction is made from: the last ones; see `ReadingModel`."""
    longest, num_forgotten = _limits(window, max_context)
    if longest is None or num_read <= longest:
        return num_read
    return longest + 1 - num_forgotten + (num_read - longest - 1) % num_forgotten


def _limits(window: int | None, max_context: int | None) -> tuple[int | None, int]:
    """Return the longest context (None: no limit), and how many concepts are forgotten when it is exceeded."""
    if window is None:
        return max_context, max(1, (max_context or 0) // 2)
    return _window_read(window, max_context), 1


def _stacked(concepts: list[Concept]) -> tuple[Tensor, Tensor | None]:
    """Return the concepts as one context (1, T, D), and their conditions (1, T, C) if there are any."""
    contexts = torch.stack([vector for vector, _ in concepts])[None]
    conditions = [condition for _, condition in concepts if condition is not None]
    return contexts, torch.stack(conditions)[None] if conditions else None


def _window_read(window: int, max_context: int | None) -> int:
    """Return how many of a window's concepts a model with this longest context reads."""
    lengths = np.array([window])
    spans = Spans(first_rows=np.zeros_like(lengths), lengths=lengths, first_targets=lengths - 1)
    return int(spans.no_longer_than(max_context).lengths[0])
