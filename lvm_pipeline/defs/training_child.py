"""The process that trains one architecture for the asset `trained_model`.

    python -m lvm_pipeline.defs.training_child

It knows its parent's run by Dagster Pipes and its settings by the environment; torch and MLflow are imported here and
never in the code server. It reports once, at the end, and shows its progress on the way.
"""

import hashlib
import signal
from types import FrameType
from typing import TYPE_CHECKING, Any

from dagster_pipes import PipesContext, open_dagster_pipes

from lvm_pipeline import lineage
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.defs.progress import ProgressFile
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.settings import load_settings

if TYPE_CHECKING:
    from lvm_pipeline.training.loop import ProgressReport


def main() -> None:
    """Train, report, promote."""
    signal.signal(signal.SIGTERM, _interrupt)
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message(report_of(pipes))


def report_of(pipes: PipesContext) -> dict[str, Any]:
    """Train and return what to report; of a training that could not be done, why and what was found."""
    try:
        return train_partition(pipes)
    except LvmError as error:
        findings = error.findings if isinstance(error, InvariantError) else []
        return {"error": str(error), "findings": [finding.as_json() for finding in findings]}


def train_partition(pipes: PipesContext) -> dict[str, Any]:
    """Train the architecture of the run's partition and put the model in its place if its checks passed."""
    settings = load_settings()
    architecture = pipes.partition_key
    shown = _Shown(pipes, ProgressFile(settings, "trained_model", architecture))
    staged = lineage.stage_model(settings, architecture, tracker=MlflowTracker(settings), progress=shown)
    report = {
        "error": None,
        "findings": [finding.as_json() for finding in staged.findings],
        "info": staged.info.as_json(),
        "mlflow_url": staged.mlflow_url,
    }
    try:
        model_dir = lineage.promote_model(settings, staged)
    except LvmError as error:
        return {**report, "error": str(error)}
    with (model_dir / "model.safetensors").open("rb") as weights:
        return {**report, "data_version": hashlib.file_digest(weights, "sha256").hexdigest()}


class _Shown:
    """Shows a training's progress in the progress file, and each epoch in Dagster's log (a row in its database)."""

    def __init__(self, pipes: PipesContext, progress: ProgressFile):
        self._pipes = pipes
        self._progress = progress
        self._epoch = -1

    def __call__(self, report: "ProgressReport", /) -> None:
        note = f"epoch {report.epoch}/{report.epochs}, {report.metric_name} {report.best_score:.4f}"
        self._progress.report(report.done_fraction, note)
        if report.epoch != self._epoch:
            self._epoch = report.epoch
            self._pipes.log.info(note)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
