"""Trials: trained, checked, promoted, each with the MLflow run that made it."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline import files
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, raise_on_blocking
from lvm_pipeline.imports import lasting_imports
from lvm_pipeline.lineage.invariants import with_set_severities
from lvm_pipeline.lineage.spaces import keep_with_model
from lvm_pipeline.lineage.trials import (
    TRACKING_FILE,
    TrialFolder,
    link_model,
    move_earlier_layout,
    read_tracking,
    trained_trials,
    trial_folder,
    write_tracking,
    write_trial,
)
from lvm_pipeline.settings import Settings
from lvm_pipeline.unknown_variables import refuse_unknown_variables

if TYPE_CHECKING:
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.data import TrainingData
    from lvm_pipeline.training.loop import Accept, TrainedModel
    from lvm_pipeline.training.progress import OnProgress
    from lvm_pipeline.training.ranks import Ranks
    from lvm_pipeline.training.tracking import Tracker
    from lvm_pipeline.training.trained_model import TrainedModelInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainedTrial:
    folder: TrialFolder
    info: "TrainedModelInfo"  # record of the trained model
    findings: tuple[Finding, ...]  # what was checked before it was promoted
    was_trained: bool  # False if it had been trained before with the same data, code and options
    mlflow_url: str | None  # page of the MLflow run that made it, None where nothing tracked it
    # why MLflow does not hold the model yet; the next training tries again
    tracking_problem: str | None = None


def training_config_of(settings: Settings, architecture: str | None = None) -> "TrainingConfig":
    """Return the training that the settings ask for.

    Raises:
        LvmError: If an environment variable `LVM_...` is not a setting, since it may be a misspelt option.
    """
    from lvm_pipeline.training.config import TrainingConfig

    refuse_unknown_variables()
    options = {name: getattr(settings, name) for name in TrainingConfig.model_fields}
    return TrainingConfig(**{**options, "architecture": architecture or settings.architecture})


def promoted_data(settings: Settings) -> "TrainingData":
    """Open the promoted concepts and sequences for training or scoring.

    Raises:
        LvmError: If a file cannot be read, or the sequences were made from other concepts.
    """
    from lvm_pipeline.training.data import load_training_data

    return load_training_data(
        *settings.promoted_tables, encoders_dir=settings.encoders_dir, decoders_dir=settings.decoders_dir
    )


def train_trial(
    settings: Settings,
    config: "TrainingConfig",
    *,
    tracker: "Tracker | None" = None,
    progress: "OnProgress | None" = None,
    again: bool = False,
    data: "TrainingData | None" = None,
    ranks: "Ranks | None" = None,
) -> TrainedTrial:
    """Train a trial on the promoted data, check the result and promote it; `models/<architecture>` then leads to it.

    A trial that was trained before with the same data, code and options is left as it is.

    Args:
        tracker: What to report to; None tracks nothing.
        again: Train even if there is nothing new, and from the start even if a checkpoint cannot be resumed.
        data: The promoted data, for a process that trains many trials; None: they are loaded.
        ranks: The processes that train together, of which this is the first; see `follow_trial`.

    Raises:
        LvmError: If the data or options cannot be used, or another process trains the same trial.
        InvariantError: If a blocking finding failed; an earlier model of the trial stays.
    """
    with lasting_imports():
        from lvm_pipeline.training.loop import train
        from lvm_pipeline.training.rescore import RescoringProcess
        from lvm_pipeline.training.tracking import Tracker

    move_earlier_layout(settings)
    folder = trial_folder(settings, config.trial.trial_id)
    with folder.locked():
        data = data or promoted_data(settings)
        finished = None if again else finished_trial(folder, config, data)
        if ranks is not None:
            ranks.agreed(finished is None)
        if finished is not None:
            link_model(settings, config.architecture, folder)
            return finished
        write_trial(folder, config.trial)
        if tracker is not None:
            complete_tracking(settings, own=folder)
        tracker = tracker or Tracker()
        with RescoringProcess() as rescoring:
            rescoring.start()
            trained = train(
                config,
                data,
                output_dir=folder.staged_dir,
                checkpoint_dir=folder.checkpoint_dir,
                compile_cache_dir=settings.compile_cache_dir,
                tracker=tracker,
                progress=progress,
                again=again,
                accept=accepted_at(folder.model_dir, settings.promoted_tables, tracker, settings=settings),
                ranks=ranks,
            )
        made = trained_now(folder, trained, tracker)
        link_model(settings, config.architecture, folder)
        return made


def follow_trial(settings: Settings, config: "TrainingConfig", *, again: bool, ranks: "Ranks") -> None:
    """Train beside the rank that runs `train_trial`, if it trains; nothing is written.

    Raises:
        LvmError: If the data or options cannot be used.
    """
    from lvm_pipeline.training.loop import train

    folder = trial_folder(settings, config.trial.trial_id)
    data = promoted_data(settings)
    if ranks.agreed(None):
        cache_dir = settings.compile_cache_dir
        options = {"checkpoint_dir": folder.checkpoint_dir, "compile_cache_dir": cache_dir, "again": again}
        train(config, data, output_dir=folder.staged_dir, ranks=ranks, **options)


def trained_before(folder: TrialFolder, info: "TrainedModelInfo") -> TrainedTrial:
    """Return a trial that is not trained again, with its findings and MLflow run."""
    from lvm_pipeline.training.invariants import read_findings

    url, findings = read_tracking(folder.model_dir)["mlflow_url"], tuple(read_findings(folder.model_dir))
    return TrainedTrial(folder=folder, info=info, findings=findings, was_trained=False, mlflow_url=url)


def trained_now(folder: TrialFolder, trained: "TrainedModel", tracker: "Tracker") -> TrainedTrial:
    """Return a trial whose model was just promoted, and record its MLflow run."""
    write_tracking(folder.model_dir, tracker, is_complete=trained.tracking_problem is None)
    return TrainedTrial(
        folder=folder,
        info=trained.info,
        findings=trained.findings,
        was_trained=True,
        mlflow_url=tracker.run_url,
        tracking_problem=trained.tracking_problem,
    )


def finished_trial(folder: TrialFolder, config: "TrainingConfig", data: "TrainingData") -> TrainedTrial | None:
    """Return a trial that was trained with this data and the present code; None if it has to be trained."""
    from lvm_pipeline.training.provenance import training_code_version
    from lvm_pipeline.training.strategies import content_read, strategy_fingerprints

    info = folder.info()
    code_version = training_code_version(config.architecture, config.strategy)
    if info is None or info.fingerprints != data.fingerprints or info.code_version != code_version:
        return None
    if info.content_fingerprint != content_read(config.trial, data.concepts):
        return None
    read = strategy_fingerprints(config.trial, data)
    if read != {name: info.strategy_fingerprints.get(name) for name in read}:
        return None
    return trained_before(folder, info)


def accepted_at(
    model_dir: Path, tables: tuple[Path, Path, Path], tracker: "Tracker", *, settings: Settings
) -> "Accept":
    """Return a function that checks a trained model, and moves it to `model_dir` if no blocking finding failed.

    `tables` are concept table, sequence table and folder of the memory-mapped vectors. Of the settings, only the
    severities are used.
    """
    from lvm_pipeline.training.invariants import check_trained_model, write_findings

    def accept(trained: "TrainedModel") -> "TrainedModel":
        findings = with_set_severities(settings, check_trained_model(trained.path, *tables))
        write_findings(trained.path, findings)
        keep_with_model(trained.path, tables)
        write_tracking(trained.path, tracker, is_complete=tracker.run_id is None)
        raise_on_blocking(findings)
        files.replace_dir(trained.path, model_dir)
        return replace(trained, path=model_dir, findings=tuple(findings))

    return accept


def complete_tracking(settings: Settings, *, own: TrialFolder | None = None) -> None:
    """Log to MLflow the models that could not be logged when they were trained, if MLflow answers now.

    A model whose training is not over is left to it, except that of the trial `own`, which the caller trains.
    """
    for folder in trained_trials(settings):
        if read_tracking(folder.model_dir)["is_complete"] or (folder != own and folder.is_locked()):
            continue
        try:
            with files.only_one(folder.path / ".upload.lock", "another process is logging it now."):
                _log_model(settings, folder)
        except LvmError as error:
            logger.warning("MLflow still lacks the model of %s: %s", folder.trial_id, error)


def _log_model(settings: Settings, folder: TrialFolder) -> None:
    from lvm_pipeline.adapters.mlflow_tracker import log_model_to_run

    tracking = read_tracking(folder.model_dir)
    if not tracking["is_complete"]:  # another process may have logged it by now
        log_model_to_run(settings, tracking["mlflow_run_id"], folder.model_dir)
        files.write_json(folder.model_dir / TRACKING_FILE, {**tracking, "is_complete": True})
