"""A training is a list of phases, made by its strategies.

A phase says which spans are seen in which order, what is minimised, for how many epochs, and at which learning rate.

Shapes: N = concepts, R = spans.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import Spans, TrainingData

if TYPE_CHECKING:
    from lvm_pipeline.training.terms import TermModule, TermSources


@dataclass(frozen=True, kw_only=True)
class AddedTerm:
    name: str  # shown in curves and MLflow. Phases that name the same term share its module
    weight: float  # its factor in the sum
    make: "Callable[[TermSources], TermModule]"  # makes the module; see `terms`


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stage of a training."""

    name: str  # shown in progress, curves and MLflow
    spans: Spans  # what is learned from
    epochs: int  # maximum number of passes over the spans
    batch_size: int  # targets per optimiser step, about
    learning_rate: float  # peak of this phase's warm-up and cosine schedule
    objective: str  # see `objectives`
    is_shuffled: bool = True  # whether every epoch draws its own order; else spans are seen in the order given
    # draws the indices of the spans that an epoch sees, with a generator of that epoch. Default: each once
    draw: Callable[[np.random.Generator], NDArray[np.int64]] | None = None
    # rows whose concept counts as a target, bool (N,). Default: every target of the spans
    counted: NDArray[np.bool_] | None = None
    terms: tuple[AddedTerm, ...] = ()  # terms added to the objective

    def for_model(self, max_context: int | None, *, rng: np.random.Generator) -> Spans:
        """Return the spans of one epoch, none longer than the model reads and none without a target that counts."""
        spans = self.spans if self.draw is None else self.spans.take(self.draw(rng))
        spans = spans.no_longer_than(max_context)
        return spans if self.counted is None else spans.take(np.flatnonzero(self.num_counted(spans) > 0))

    def num_counted(self, spans: Spans) -> NDArray[np.int64]:
        """Return how many targets of each span count, (R,)."""
        if self.counted is None:
            return spans.num_targets
        before = np.concatenate([[0], np.cumsum(self.counted)])
        return before[spans.first_rows + spans.lengths + 1] - before[spans.first_rows + spans.first_targets + 1]


def train_spans(config: TrainingConfig, data: TrainingData) -> Spans:
    """Return all spans of the train split in the training's mode.

    Raises:
        LvmError: If there is nothing to train on.
    """
    spans = data.article_spans("train") if config.mode == "articles" else data.window_spans("train")
    if not len(spans):
        raise LvmError(f"The train split has no targets in mode {config.mode}; load more or longer articles.")
    return spans


def phase_of(config: TrainingConfig, spans: Spans, *, name: str = "train", epochs: int | None = None) -> Phase:
    """Return a phase with the options of a settled config, on some spans."""
    assert config.batch_size is not None
    assert config.learning_rate is not None
    return Phase(
        name=name,
        spans=spans,
        epochs=epochs or config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        objective=config.objective,
    )
