"""Trials on disk, and the layout of earlier versions.

    LVM_HOME/trials/<trial_id>/
        trial.json              the options that identify this trial
        model/                  weights, provenance, findings, MLflow run; replaced in one step
        checkpoint/             only while the training runs, or after it was interrupted
        report.json, .html      the latest evaluation on the validation split

`models/<architecture>` and `reports/<architecture>` are links to the latest trial of an architecture.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lvm_pipeline import files
from lvm_pipeline.architectures._registry import all_model_names, architecture_names
from lvm_pipeline.errors import LvmError, nearest_or_all
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.trial import Trial

if TYPE_CHECKING:
    from lvm_pipeline.training.tracking import Tracker
    from lvm_pipeline.training.trained_model import TrainedModelInfo

TRIAL_FILE, REPORT_FILE, TRACKING_FILE = "trial.json", "report.json", "tracking.json"
MODEL, CHECKPOINT, STAGED = "model", "checkpoint", "staged"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialFolder:
    path: Path
    # the folder of the model where it is not the trial's own, as of a champion whose trial was trained again since
    other_model_dir: Path | None = None

    @property
    def trial_id(self) -> str:
        return self.path.name

    @property
    def model_dir(self) -> Path:
        """The trained model that has passed its checks."""
        return self.other_model_dir or self.path / MODEL

    @property
    def staged_dir(self) -> Path:
        """A trained model that has not passed its checks yet."""
        return self.path / STAGED

    @property
    def checkpoint_dir(self) -> Path:
        """The checkpoint from which an interrupted training resumes."""
        return self.path / CHECKPOINT

    @property
    def report_path(self) -> Path:
        return self.path / REPORT_FILE

    def info(self) -> "TrainedModelInfo | None":
        """Return the record of the trained model; None if there is none, or none that can be read."""
        from lvm_pipeline.training.trained_model import read_trained_model_info

        try:
            return read_trained_model_info(self.model_dir)
        except LvmError:
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training the same trial while the block runs.

        Raises:
            LvmError: If another process trains it now.
        """
        problem = f"Another process is training {self.trial_id} now; wait for it, or train with another seed."
        with files.only_one(self.path / ".lock", problem):
            yield

    def is_locked(self) -> bool:
        """Whether a process trains it now."""
        try:
            with self.locked():
                return False
        except LvmError:
            return True


def trial_folder(settings: Settings, trial_id: str) -> TrialFolder:
    return TrialFolder(settings.trials_dir / trial_id)


def write_trial(folder: TrialFolder, trial: Trial) -> None:
    files.write_json(folder.path / TRIAL_FILE, {"trial_id": trial.trial_id, "options": trial.identity()})


def trained_trials(settings: Settings) -> list[TrialFolder]:
    """Return the trials that have a trained model, by id."""
    move_earlier_layout(settings)
    found = sorted(settings.trials_dir.glob(f"*/{MODEL}/trained_model.json"))
    return [TrialFolder(path.parent.parent) for path in found]


def named_trial(settings: Settings, trial_id: str) -> TrialFolder:
    """Return a trained trial by its id, or by the beginning of it if that is unique.

    Raises:
        LvmError: If there is no such trial, or more than one; the message lists what exists.
    """
    known = trained_trials(settings)
    found = [each for each in known if each.trial_id == trial_id]
    found = found or [each for each in known if each.trial_id.startswith(trial_id)]
    if len(found) != 1:
        what = "no trained trial" if not found else "more than one trained trial"
        listed = ", ".join(each.trial_id for each in found or known) or "none"
        raise LvmError(f"There is {what} {trial_id!r}; the trained trials are: {listed}.")
    return found[0]


def latest_trial(settings: Settings, architecture: str) -> TrialFolder:
    """Return the trial of an architecture that was trained last. Raises LvmError if none was trained."""
    move_earlier_layout(settings)
    link = settings.models_dir / architecture
    if not link.is_symlink() or not link.exists():
        if architecture not in (*all_model_names(), "ensemble"):
            raise LvmError(f"There is no model {architecture!r}; {nearest_or_all(architecture, all_model_names())}")
        raise LvmError(f"No trial of {architecture} is trained yet; train one with `lvm train -a {architecture}`.")
    return trial_folder(settings, link.resolve().parent.name)  # below `home` as it is named, which may be a link


def link_model(settings: Settings, architecture: str, folder: TrialFolder) -> None:
    files.link_dir(settings.models_dir / architecture, folder.model_dir)


def link_report(settings: Settings, architecture: str, folder: TrialFolder) -> None:
    files.link_dir(settings.reports_dir / architecture, folder.path)


def read_tracking(model_dir: Path) -> dict[str, Any]:
    """Return id and page of a model's MLflow run (None if untracked), and whether the run holds the model."""
    values = files.read_json(model_dir / TRACKING_FILE, remedy="delete it; the model then counts as not tracked.")
    return {"is_complete": True, "mlflow_run_id": None, "mlflow_url": None, **values}


def write_tracking(model_dir: Path, tracker: "Tracker", *, is_complete: bool) -> None:
    """Record beside the weights their MLflow run, and whether it holds the model already."""
    values = {"mlflow_run_id": tracker.run_id, "mlflow_url": tracker.run_url, "is_complete": is_complete}
    files.write_json(model_dir / TRACKING_FILE, values)


def move_earlier_layout(settings: Settings) -> None:
    """Move models and reports of earlier versions, one folder per architecture, into trial folders; log what moved.

    Does nothing on a home of this version. Raises LvmError if the record of such a model cannot be read.
    """
    earlier = [name for name in architecture_names() if _is_earlier_model(settings.models_dir / name)]
    if not earlier:
        return
    with FileLock(settings.models_dir / ".layout.lock"):
        moved = [_moved(settings, name) for name in earlier if _is_earlier_model(settings.models_dir / name)]
        shutil.rmtree(settings.models_dir / ".staging", ignore_errors=True)
    logger.warning(
        "This home was written by an earlier version. Moved %s to %s; models/ and reports/ now hold links.",
        ", ".join(f"models/{name} to trials/{trial_id}" for name, trial_id in moved),
        settings.trials_dir,
    )


def _is_earlier_model(path: Path) -> bool:
    return not path.is_symlink() and (path / "trained_model.json").is_file()


def _moved(settings: Settings, architecture: str) -> tuple[str, str]:
    from lvm_pipeline.training.trained_model import read_trained_model_info

    model_dir, report_dir = settings.models_dir / architecture, settings.reports_dir / architecture
    try:
        trial = Trial(**read_trained_model_info(model_dir).trial)
    except LvmError as error:
        raise LvmError(
            f"The model in {model_dir} is of an earlier version and has no readable record; move this folder out of "
            f"LVM_HOME and run the command again. {error}"
        ) from None
    folder = trial_folder(settings, trial.trial_id)
    write_trial(folder, trial)
    if report_dir.is_dir() and not report_dir.is_symlink():
        for path in sorted(report_dir.iterdir()):
            path.replace(folder.path / path.name)
        report_dir.rmdir()
        link_report(settings, architecture, folder)
    files.replace_dir(model_dir, folder.model_dir)
    link_model(settings, architecture, folder)
    return architecture, trial.trial_id
