"""The process that trains one trial for the asset `trained_model`.

    python -m lvm_pipeline.defs.training_child

Dagster Pipes connects it to its parent's run, and it reads its settings from the environment. torch and MLflow are
imported here and never in the code server. It reports its progress, and once at the end the result.
"""

import signal
from logging import Logger
from types import FrameType
from typing import TYPE_CHECKING, Any

from dagster_pipes import PipesContext, open_dagster_pipes

from lvm_pipeline import lineage
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.defs.progress import ProgressFile
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.imports import end_without_search
from lvm_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from lvm_pipeline.training.progress import ProgressReport


def main() -> None:
    signal.signal(signal.SIGTERM, interrupt)
    end_without_search()
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message(report_of(pipes))


def report_of(pipes: PipesContext) -> dict[str, Any]:
    """Train the architecture of the run's partition and return the report."""
    settings = load_settings()
    progress = ProgressFile(settings, "trained_model", pipes.partition_key)
    again = bool(pipes.get_extra("again"))
    return report_in_process(settings, pipes.partition_key, again=again, log=pipes.log, progress=progress)


def report_in_process(
    settings: Settings, architecture: str, *, again: bool, log: Logger, progress: ProgressFile
) -> dict[str, Any]:
    """Train and return the report; after an error, its sentence and the findings so far."""
    try:
        return train_partition(settings, architecture, again=again, log=log, progress=progress)
    except LvmError as error:
        findings = error.findings if isinstance(error, InvariantError) else []
        return {"error": str(error), "findings": [finding.as_json() for finding in findings]}


def train_partition(
    settings: Settings, architecture: str, *, again: bool, log: Logger, progress: ProgressFile
) -> dict[str, Any]:
    """Train an architecture, unless that trial is trained already."""
    from lvm_pipeline.training.trained_model import weights_fingerprint

    config = lineage.training_config_of(settings, architecture)
    show = _Progress(log, progress)
    trained = lineage.train_launched(settings, config, tracker=MlflowTracker(settings), progress=show, again=again)
    if not trained.was_trained:
        log.info(f"{trained.folder.trial_id} was trained before with the same data, code and options.")
    if trained.tracking_problem is not None:
        log.warning(f"MLflow does not hold the model yet: {trained.tracking_problem}")
    return {
        "error": None,
        "findings": [finding.as_json() for finding in trained.findings],
        "trial_id": trained.folder.trial_id,
        "was_trained": trained.was_trained,
        "info": trained.info.as_json(),
        "mlflow_url": trained.mlflow_url,
        "path": str(trained.folder.model_dir),
        "data_version": weights_fingerprint(trained.folder.model_dir),
    }


class _Progress:
    """Writes progress to the progress file, and one line per epoch to Dagster's log."""

    def __init__(self, log: Logger, progress: ProgressFile):
        self._log = log
        self._progress = progress
        self._epoch = (0, 0)

    def __call__(self, report: "ProgressReport", /) -> None:
        self._progress.report(report.done_fraction, report.in_words())
        if (report.phase, report.epoch) != self._epoch:
            self._epoch = (report.phase, report.epoch)
            self._log.info(report.in_words())


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
