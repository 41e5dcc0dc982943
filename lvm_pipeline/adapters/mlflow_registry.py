"""The registered model `lvm` and its alias `champion`.

Each version is a model that was promoted; the alias points to the current champion, whose weights are read from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline import files
from lvm_pipeline.adapters import mlflow_artifacts, mlflow_model, mlflow_store
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

MODEL_NAME = "lvm"
CHAMPION = "champion"
CHOOSE_ANEW = "`lvm champion --choose-anew`"
ABSENT = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
}  # MLflow's words for "no such alias" and "no such model"


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A version in the registry: its MLflow run, tags and the folder of its weights."""

    version: str
    mlflow_run_id: str
    tags: dict[str, str]
    model_dir: Path
    url: str


def champion(settings: Settings) -> RegisteredModel | None:
    """Return the champion, None if no model was promoted yet; an error if its files are missing."""
    version = _version_with_alias(settings)
    if version is None:
        return None
    model_dir = _files_of_champion(settings, version.run_id or "")
    if not model_dir.is_dir():
        raise LvmError(f"The champion's files are missing ({model_dir}); restore them, or run {CHOOSE_ANEW}.")
    return _described(settings, version, model_dir)


def registered(settings: Settings, number: str) -> RegisteredModel:
    """Return a version by its number. Raises LvmError if there is none, or its files are gone."""
    from mlflow.exceptions import MlflowException

    versions = _versions(settings)
    if number not in versions:
        listed = ", ".join(sorted(versions, key=int)) or "none"
        raise LvmError(f"MLflow has no version {number} of the model {MODEL_NAME}; the versions are: {listed}.")
    version = versions[number]
    with mlflow_store.store_errors():
        try:
            model_dir = model_dir_of(settings, version.run_id or "")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise LvmError(f"The MLflow run of version {number}, or its model, was deleted; choose another.") from None
    if not model_dir.is_dir():
        raise LvmError(f"The files of version {number} are missing ({model_dir}); restore them, or choose another.")
    return _described(settings, version, model_dir)


def _described(settings: Settings, version: "ModelVersion", model_dir: Path) -> RegisteredModel:
    return RegisteredModel(
        version=str(version.version),
        mlflow_run_id=version.run_id or "",
        tags=dict(version.tags),
        model_dir=model_dir,
        url=version_url(settings, str(version.version)),
    )


def champion_tags(settings: Settings) -> dict[str, str] | None:
    """Return the tags of the champion, even if its files are missing; None if no model was promoted yet."""
    version = _version_with_alias(settings)
    return None if version is None else dict(version.tags)


def model_dir_of(settings: Settings, mlflow_run_id: str) -> Path:
    """Return the folder of the weights that a run holds; whether it exists is not checked.

    Raises:
        LvmError: If the run holds no model.
        MlflowException: If run or model do not exist.
    """
    return _model_dir(settings, _model_of(settings, mlflow_run_id))


def _files_of_champion(settings: Settings, mlflow_run_id: str) -> Path:
    from mlflow.exceptions import MlflowException

    with mlflow_store.store_errors():
        try:
            return model_dir_of(settings, mlflow_run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            what = f"The champion's MLflow run {mlflow_run_id}, or its model, was deleted"
            raise LvmError(f"{what}; choose another champion: {CHOOSE_ANEW}.") from None


def promote(settings: Settings, *, mlflow_run_id: str, tags: Mapping[str, str], description: str) -> RegisteredModel:
    """Register the model of an MLflow run, if it is not registered, and point the alias `champion` to it.

    Tags are kept with the version; the description says why it is promoted.

    Raises:
        LvmError: If the run has no model, or the store cannot be used.
    """
    client = mlflow_store.open_client(settings)
    with mlflow_store.store_errors():
        model = _model_of(settings, mlflow_run_id)
        of_run = client.search_model_versions(f"name = '{MODEL_NAME}' and run_id = '{mlflow_run_id}'")
        known = [each for each in of_run if model.model_id in (each.source or "")]  # a model may have been logged again
        if known:
            version = str(known[0].version)
            client.update_model_version(MODEL_NAME, version, description)
            for name, value in tags.items():
                client.set_model_version_tag(MODEL_NAME, version, name, value)
        else:
            version = _register(settings, model, mlflow_run_id, tags, description)
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
    promoted = champion(settings)
    assert promoted is not None
    return promoted


def version_url(settings: Settings, version: str) -> str:
    """Return the page of a version in the MLflow UI."""
    return f"{mlflow_store.ui_url(settings)}/#/models/{MODEL_NAME}/versions/{version}"


def _register(
    settings: Settings, model: "LoggedModel", mlflow_run_id: str, tags: Mapping[str, str], description: str
) -> str:
    from mlflow.exceptions import MlflowException

    client = mlflow_store.open_client(settings)
    try:
        client.create_registered_model(MODEL_NAME, description="The best latent vector model by the champion rule.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    is_server = mlflow_store.tracking_uri(settings).startswith("http")
    # Without a server, MLflow would look up a model URI in its global store.
    source = model.model_uri if is_server else model.artifact_location
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
    """Return the model that was logged to a run last, without those that were deleted."""
    from mlflow.exceptions import MlflowException

    client = mlflow_store.open_client(settings)
    outputs = client.get_run(mlflow_run_id).outputs
    if outputs is None or not outputs.model_outputs:
        raise LvmError(f"MLflow run {mlflow_run_id} holds no model; train it again with --again.")
    found, deleted = [], None
    for output in outputs.model_outputs:
        try:
            found.append(client.get_logged_model(output.model_id))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            deleted = error
    if not found:
        assert deleted is not None
        raise deleted
    return max(found, key=lambda model: model.creation_timestamp)


def _versions(settings: Settings) -> "dict[str, ModelVersion]":
    """Return all versions by number; empty if nothing was promoted yet."""
    if not mlflow_store.is_there(settings):
        return {}
    with mlflow_store.store_errors():
        found = mlflow_store.open_client(settings).search_model_versions(f"name = '{MODEL_NAME}'")
        return {str(version.version): version for version in found}


def _version_with_alias(settings: Settings) -> "ModelVersion | None":
    if not mlflow_store.is_there(settings):
        return None
    from mlflow.exceptions import MlflowException

    with mlflow_store.store_errors():
        try:
            return mlflow_store.open_client(settings).get_model_version_by_alias(MODEL_NAME, CHAMPION)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
    return None


def _model_dir(settings: Settings, model: "LoggedModel") -> Path:
    """Return the folder of the model's files, downloaded once if the store is not on this disk."""
    if settings.mlflow_tracking_uri is None or (model.artifact_location or "").startswith("file:"):
        path = mlflow_artifacts.path_of(settings.mlflow_dir, model.artifact_location or "")
        if path is not None:
            return path / mlflow_model.DATA
    kept = settings.mlflow_dir / "models" / model.model_id
    if not kept.is_dir():
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # By location: MLflow looks up `models:/...` in its global store and ignores the tracking URI.
        repository = get_artifact_repository(model.artifact_location, tracking_uri=mlflow_store.tracking_uri(settings))
        with files.staged_dir(kept) as staged:
            repository.download_artifacts("", str(staged))
    return kept / mlflow_model.DATA
