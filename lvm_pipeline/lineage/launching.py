"""A trial trained where the option `launcher` says: in this process, or in several that train together."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, raise_on_blocking
from lvm_pipeline.lineage.models import TrainedTrial, train_trial, trained_before
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.settings import Settings, settings_environment

if TYPE_CHECKING:
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.progress import OnProgress
    from lvm_pipeline.training.tracking import Tracker

RANK_MODULE = "lvm_pipeline.lineage.rank"
DEFAULT_PROCESSES = 2  # without a GPU


@dataclass(frozen=True)
class Exchange:
    """Files by which a training's processes get their task and return the result, on a shared disk."""

    folder: Path

    @property
    def request(self) -> Path:
        """What to train: options, and whether to start again and to track."""
        return self.folder / "request.json"

    @property
    def progress(self) -> Path:
        """The progress of the training."""
        return self.folder / "progress.json"

    @property
    def record(self) -> Path:
        """The result: an error with the findings so far, or whether the trial was trained now."""
        return self.folder / "record.json"


# Runs ranks that read an exchange, calls a function while it waits, and returns how the ranks ended.
RunRanks = Callable[[Exchange, Callable[[], None]], str]


def train_launched(
    settings: Settings,
    config: "TrainingConfig",
    *,
    tracker: "Tracker | None" = None,
    progress: "OnProgress | None" = None,
    again: bool = False,
) -> TrainedTrial:
    """Train a trial as `train_trial` does, in as many processes as its launcher starts.

    Raises:
        LvmError: If the trial cannot be trained, or its processes ended without a result.
        InvariantError: If a blocking finding failed.
    """
    if config.launcher not in ("torchrun", "ray"):
        return train_trial(settings, config, tracker=tracker, progress=progress, again=again)
    run_ranks = _with_ray(settings, config) if config.launcher == "ray" else _with_torchrun(settings, config)
    return train_in_ranks(settings, config, run_ranks, tracks=tracker is not None, progress=progress, again=again)


def train_in_ranks(
    settings: Settings,
    config: "TrainingConfig",
    run_ranks: RunRanks,
    *,
    tracks: bool,
    progress: "OnProgress | None",
    again: bool,
) -> TrainedTrial:
    """Hand a trial to ranks, wait for them, and return the trial that they left in its folder."""
    folder = trial_folder(settings, config.trial.trial_id)
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ranks-", dir=settings.home) as name:
        exchange = Exchange(Path(name))
        files.write_json(exchange.request, {"config": config.as_json(), "again": again, "tracks": tracks})
        ended = run_ranks(exchange, _Watch(exchange, progress))
        record = _read(exchange.record)
    if record is None:
        raise LvmError(
            f"The processes that train {folder.trial_id} ended without a result ({ended}); what they printed says why. "
            "Train it again: it resumes from its last checkpoint."
        )
    raise_on_blocking([Finding.from_json(values) for values in record["findings"]])
    if record["error"] is not None:
        raise LvmError(record["error"])
    info = folder.info()
    assert info is not None
    return replace(
        trained_before(folder, info), was_trained=record["was_trained"], tracking_problem=record["tracking_problem"]
    )


class _Watch:
    """Shows the progress of the ranks whenever it has changed."""

    def __init__(self, exchange: Exchange, progress: "OnProgress | None"):
        self._exchange, self._progress, self._shown = exchange, progress, None

    def __call__(self) -> None:
        if self._progress is None:
            return
        from lvm_pipeline.training.progress import ProgressReport

        found = _read(self._exchange.progress)
        if found is not None and found != self._shown:
            self._shown = found
            self._progress(ProgressReport(**found))


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def num_processes_of(config: "TrainingConfig") -> int:
    """Return how many processes train: as many as the option says, one per GPU, or two without a GPU."""
    if config.num_processes is not None:
        return config.num_processes
    import torch

    return torch.cuda.device_count() or DEFAULT_PROCESSES


def _with_torchrun(settings: Settings, config: "TrainingConfig") -> RunRanks:
    from lvm_pipeline.adapters.torchrun import run_with_torchrun

    def run(exchange: Exchange, on_wait: Callable[[], None]) -> str:
        code = run_with_torchrun(
            RANK_MODULE,
            [str(exchange.folder)],
            num_processes=num_processes_of(config),
            environment={**os.environ, "OMP_NUM_THREADS": str(config.num_threads), **settings_environment(settings)},
            on_wait=on_wait,
        )
        return f"exit code {code}"

    return run


def _with_ray(settings: Settings, config: "TrainingConfig") -> RunRanks:
    """Return what runs ranks on Ray. Raises LvmError if they would train on another cluster than the settings name."""
    from lvm_pipeline.adapters.ray_training import run_with_ray

    if settings.ray_address is not None and "RAY_ADDRESS" not in os.environ:  # a job of Ray has it
        raise LvmError(
            "LVM_RAY_ADDRESS names a cluster for trainings that Dagster starts, not for `lvm train`; set RAY_ADDRESS "
            "to the address of the cluster, or unset LVM_RAY_ADDRESS to train on this machine."
        )

    def run(exchange: Exchange, on_wait: Callable[[], None]) -> str:
        return run_with_ray(
            RANK_MODULE,
            [str(exchange.folder)],
            num_processes=num_processes_of(config),
            uses_gpu=_uses_gpu(config.device),
            environment=settings_environment(settings),
            on_wait=on_wait,
        )

    return run


def _uses_gpu(device: str) -> bool:
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
