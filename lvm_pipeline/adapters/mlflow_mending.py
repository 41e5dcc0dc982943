"""Repair what was deleted in MLflow: restore a run, and log its model again from the trial's files."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.adapters import mlflow_registry, mlflow_store
from lvm_pipeline.adapters.mlflow_tracker import log_model_to_run
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)


def hold_model(settings: Settings, run_id: str, model_dir: Path, *, train_again: str) -> None:
    """Make sure that an MLflow run exists and holds the model in `model_dir`.

    Args:
        train_again: The command that trains the model again, for the message.

    Raises:
        LvmError: If the run was deleted for good, or the store cannot be used.
    """
    run = _restored_run(settings, run_id)
    if run is None:
        raise LvmError(f"The MLflow run {run_id} was deleted for good; train the model again: `{train_again}`.")
    if not _holds_model(settings, run):
        log_model_to_run(settings, run_id, model_dir)
        logger.warning("The model of the MLflow run %s was deleted: logged it again.", run_id)


def _restored_run(settings: Settings, run_id: str) -> "Run | None":
    """Return a run, restored if it is in MLflow's trash; None if it does not exist."""
    from mlflow.exceptions import MlflowException

    client = mlflow_store.open_client(settings)
    with mlflow_store.store_errors():
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        experiment = client.get_experiment(run.info.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            mlflow_store.experiment_id(settings, experiment.name)
            run = client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(run_id)
            logger.warning("The MLflow run %s was deleted: restored it.", run_id)
            run = client.get_run(run_id)
    return run


def _holds_model(settings: Settings, run: "Run") -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return mlflow_registry.model_dir_of(settings, run.info.run_id).is_dir()
    except (MlflowException, LvmError, OSError):
        return False
