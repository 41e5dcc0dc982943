"""A training is a list of phases, made by its strategy.

A phase says which spans are seen in which order, what is minimised, for how many epochs, and at which learning rate.
"""

from dataclasses import dataclass

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import Spans, TrainingData


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stage of a training.

    Attributes:
        name: Shown in progress, curves and MLflow.
        spans: What is learned from.
        epochs: Maximum number of passes over the spans.
        batch_size: Targets per optimiser step, about.
        learning_rate: Peak of this phase's warm-up and cosine schedule.
        objective: See `objectives`.
        is_shuffled: Whether every epoch draws its own order; else spans are seen in the order given.
    """

    name: str
    spans: Spans
    epochs: int
    batch_size: int
    learning_rate: float
    objective: str
    is_shuffled: bool = True


def train_spans(config: TrainingConfig, data: TrainingData) -> Spans:
    """Return everything that the train split offers in the training's mode.

    Raises:
        LvmError: If there is nothing to train on.
    """
    spans = data.article_spans("train") if config.mode == "articles" else data.window_spans("train")
    if not len(spans):
        raise LvmError("The train split holds no article of two concepts or more; load more articles.")
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
