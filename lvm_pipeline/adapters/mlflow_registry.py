"""The registered model `lvm` and its alias `champion`.

A version is one trained model that was champion once; the alias points at the present one. Retraining overwrites an
architecture's folder, so the champion's weights are read from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lvm_pipeline import files
from lvm_pipeline.adapters import mlflow_model, mlflow_store
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

MODEL_NAME = "lvm"
CHAMPION = "champion"
ABSENT = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
}  # MLflow's words for "no such alias" and "no such model"
MODEL_URI = f"models:/{MODEL_NAME}@{CHAMPION}"


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A version in the registry: its MLflow run, tags and the folder of its weights."""

    version: str
    mlflow_run_id: str
    tags: dict[str, str]
    model_dir: Path
    url: str


def champion(settings: Settings) -> RegisteredModel | None:
    """Return the present champion, None where none was ever chosen; says so when its files are gone."""
    version = _version_with_alias(settings)
    if version is None:
        return None
    with mlflow_store.store_errors():
        model_dir = _model_dir(settings, _model_of(settings, version.run_id or ""))
    if not model_dir.is_dir():
        raise LvmError(f"The champion's files are gone from {model_dir}; restore them, or delete its alias in MLflow.")
    return RegisteredModel(
        version=str(version.version),
        mlflow_run_id=version.run_id or "",
        tags=dict(version.tags),
        model_dir=model_dir,
        url=version_url(settings, str(version.version)),
    )


def promote(settings: Settings, *, mlflow_run_id: str, tags: Mapping[str, str], description: str) -> RegisteredModel:
    """Register the model of an MLflow run, or find it registered, and point the alias `champion` at it.

    Args:
        settings: Where the store is.
        mlflow_run_id: Run whose model is registered.
        tags: Strings kept with the version, such as architecture and fingerprints.
        description: Why it is champion, one sentence.

    Raises:
        LvmError: If the run has no model, or the store cannot be used.
    """
    client = mlflow_store.open_client(settings)
    with mlflow_store.store_errors():
        version = _version_of(settings, mlflow_run_id) or _register(settings, mlflow_run_id, tags, description)
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
    promoted = champion(settings)
    assert promoted is not None
    return promoted


def version_url(settings: Settings, version: str) -> str:
    """Return the page of a version in the MLflow UI."""
    return f"{mlflow_store.ui_url(settings)}/#/models/{MODEL_NAME}/versions/{version}"


def _version_of(settings: Settings, mlflow_run_id: str) -> str | None:
    client = mlflow_store.open_client(settings)
    known = client.search_model_versions(f"name = '{MODEL_NAME}' and run_id = '{mlflow_run_id}'", max_results=1)
    return str(known[0].version) if known else None


def _register(settings: Settings, mlflow_run_id: str, tags: Mapping[str, str], description: str) -> str:
    from mlflow.exceptions import MlflowException

    client = mlflow_store.open_client(settings)
    model = _model_of(settings, mlflow_run_id)
    try:
        client.create_registered_model(MODEL_NAME, description="The latent vector model now best by the fixed rule.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    is_server = mlflow_store.tracking_uri(settings).startswith("http")
    source = model.model_uri if is_server else model.artifact_location  # without a server MLflow asks its global store
    version = client.create_model_version(
        MODEL_NAME,
        source or model.model_uri,
        run_id=mlflow_run_id,
        tags=dict(tags),
        description=description,
        model_id=model.model_id,
    )
    return str(version.version)


def _model_of(settings: Settings, mlflow_run_id: str) -> "LoggedModel":
    client = mlflow_store.open_client(settings)
    outputs = client.get_run(mlflow_run_id).outputs
    if outputs is None or not outputs.model_outputs:
        raise LvmError(f"MLflow run {mlflow_run_id} holds no model; train it again with tracking on.")
    return client.get_logged_model(outputs.model_outputs[-1].model_id)


def _version_with_alias(settings: Settings) -> "ModelVersion | None":
    from mlflow.exceptions import MlflowException

    with mlflow_store.store_errors():
        try:
            return mlflow_store.open_client(settings).get_model_version_by_alias(MODEL_NAME, CHAMPION)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
    return None


def _model_dir(settings: Settings, model: "LoggedModel") -> Path:
    """Return the model's files: in place where the store is on this disk, else fetched once."""
    location = urlsplit(model.artifact_location or "")
    if location.scheme == "file":
        return Path(unquote(location.path)) / mlflow_model.DATA
    kept = settings.mlflow_dir / "models" / model.model_id
    if not kept.is_dir():
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # By its location and not as `models:/...`, which MLflow would look up in its global store, whatever it is told.
        place = get_artifact_repository(model.artifact_location, tracking_uri=mlflow_store.tracking_uri(settings))
        with files.staged_dir(kept) as staged:
            place.download_artifacts("", str(staged))
    return kept / mlflow_model.DATA
