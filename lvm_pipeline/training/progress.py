"""Progress of a training, for display."""

from dataclasses import dataclass
from typing import Protocol

from lvm_pipeline.errors import LvmError


@dataclass(frozen=True, kw_only=True)
class ProgressReport:
    """Progress of a training; epochs count within the phase."""

    phase: int
    num_phases: int
    epoch: int
    epochs: int
    done_fraction: float
    loss: float
    metric_name: str
    best_score: float
    epochs_validated: int = 0  # in all phases; the best score is the best of these

    def in_words(self) -> str:
        """Return phase, epoch and best score, such as `epoch 3/8, cosine 0.6035`."""
        phase = f"phase {self.phase}/{self.num_phases}, " if self.num_phases > 1 else ""
        return f"{phase}epoch {self.epoch}/{self.epochs}, {self.metric_name} {self.best_score:.4f}"


class StoppedError(LvmError):
    """Raised by `OnProgress` to end a training early; no model is saved."""


class OnProgress(Protocol):
    """Called every few steps."""

    def __call__(self, report: ProgressReport, /) -> None: ...
