"""Trained models: staged, checked, promoted, each with the MLflow run that made it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.findings import Finding, raise_on_blocking
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.loop import OnProgress
    from lvm_pipeline.training.tracking import Tracker
    from lvm_pipeline.training.trained_model import TrainedModelInfo

TRACKING_FILE = "tracking.json"  # beside the weights: which MLflow run made them


@dataclass(frozen=True, kw_only=True)
class StagedModel:
    """A trained model that waits for its checks, and where its MLflow run is."""

    architecture: str
    path: Path
    info: "TrainedModelInfo"
    findings: list[Finding]
    mlflow_run_id: str | None
    mlflow_url: str | None


def stage_model(
    settings: Settings, architecture: str, *, tracker: "Tracker | None" = None, progress: "OnProgress | None" = None
) -> StagedModel:
    """Train one architecture on the promoted data into a staged folder and check the result.

    The folder is the same from try to try, so a killed training goes on from its last checkpoint.
    """
    from lvm_pipeline.training.data import load_training_data
    from lvm_pipeline.training.invariants import check_trained_model, write_findings
    from lvm_pipeline.training.loop import train
    from lvm_pipeline.training.tracking import NullTracker

    data = load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)
    tracker = tracker or NullTracker()
    path = settings.models_dir / ".staging" / architecture
    trained = train(
        training_config_of(settings, architecture), data, output_dir=path, tracker=tracker, progress=progress
    )
    note_tracking(path, tracker)
    findings = check_trained_model(path, settings.concepts_path, settings.sequences_path, settings.vectors_dir)
    write_findings(path, findings)
    return StagedModel(
        architecture=architecture,
        path=path,
        info=trained.info,
        findings=findings,
        mlflow_run_id=tracker.run_id,
        mlflow_url=tracker.run_url,
    )


def promote_model(settings: Settings, staged: StagedModel) -> Path:
    """Put a staged trained model in its place.

    Raises:
        InvariantError: If a blocking finding failed; the earlier trained model stays.
    """
    raise_on_blocking(staged.findings)
    files.replace_dir(staged.path, settings.models_dir / staged.architecture)
    return settings.models_dir / staged.architecture


def note_tracking(model_dir: Path, tracker: "Tracker") -> None:
    """Keep beside the weights which MLflow run made them."""
    files.write_json(model_dir / TRACKING_FILE, {"mlflow_run_id": tracker.run_id, "mlflow_url": tracker.run_url})


def training_config_of(settings: Settings, architecture: str, **overrides: Any) -> "TrainingConfig":
    """Return the training that the settings ask for; what they leave open keeps the training's own default."""
    from lvm_pipeline.training.config import training_config

    asked = {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "objective": settings.objective,
        **overrides,
    }
    return training_config(
        {
            "architecture": architecture,
            "preset": settings.preset,
            "mode": settings.training_mode,
            "seed": settings.seed,
            "device": settings.device,
            "num_threads": settings.num_threads,
            "compile": settings.compile,
            **{name: value for name, value in asked.items() if value is not None},
        }
    )


def tracking_of(model_dir: Path) -> dict[str, str | None]:
    """Return id and page of the MLflow run that made a trained model, None where nothing tracked it."""
    path = model_dir / TRACKING_FILE
    if not path.is_file():
        return {"mlflow_run_id": None, "mlflow_url": None}
    return json.loads(path.read_text(encoding="utf-8"))
