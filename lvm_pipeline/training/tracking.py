"""The interface between the training loop and a tracking system such as MLflow.

One tracker follows one training: `start`, then `log_metrics` in batches (an epoch's worth at a time, never step by
step), then `log_model` with the finished folder, then `finish`. The caller of `start` must call `finish`, with
`FAILED` after an error.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lvm_pipeline.errors import LvmError

logger = logging.getLogger(__name__)

TrainingStatus = Literal["FINISHED", "FAILED", "KILLED"]
MetricSeries = Mapping[str, Sequence[tuple[int, float]]]  # metric name to (step, value) pairs


class Tracker:
    """Where parameters, metrics and the model of one training go. This one tracks nothing."""

    has_started = False  # whether `start` was called: an error before that is a refusal, not a failed training

    @property
    def run_id(self) -> str | None:
        """Id of the tracked run; None before `start`, or where nothing is tracked."""
        return None

    @property
    def run_url(self) -> str | None:
        """Page of the tracked run, None where there is none."""
        return None

    def start(
        self, run_name: str, *, params: Mapping[str, object], tags: Mapping[str, str], fingerprints: Mapping[str, str]
    ) -> None:
        """Open the run.

        Args:
            run_name: Name shown to people: the trial id, such as `lstm-small-s0-3f9ac21e`.
            params: What can be tuned; nested mappings are flattened with dots.
            tags: What identifies the run: architecture, preset, space id, code version.
            fingerprints: Fingerprint of each data product read, by its name (`concepts`, `sequences`).
        """
        self.has_started = True

    def log_metrics(self, metrics: MetricSeries) -> None:
        """Log the values of some steps."""

    def log_model(self, model_dir: Path) -> None:
        """Keep a finished trained model: `model.safetensors` with `trained_model.json`."""

    def finish(self, status: TrainingStatus) -> None:
        """Close the run; a second call changes nothing."""


def log_and_close(tracker: Tracker, model_dir: Path) -> str | None:
    """Log a good model and close its run; return why the tracker does not hold the model, None if it does."""
    problem = None
    try:
        tracker.log_model(model_dir)
    except LvmError as error:
        problem = str(error)
        logger.warning("The model in %s is saved but not tracked: %s", model_dir, error)
    return problem or close(tracker, "FINISHED")


def close(tracker: Tracker, status: TrainingStatus) -> str | None:
    """Close the tracked run; return why it could not be closed."""
    try:
        tracker.finish(status)
    except LvmError as error:
        logger.warning("The tracked run could not be closed as %s: %s", status, error)
        return str(error)
    return None
