"""One MLflow run for each training: parameters, metrics in batches, system metrics, inputs, the model.

The client is used instead of MLflow's global state (the active run), so that several trainings in one process, or other
MLflow code, do not interfere.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline.adapters import mlflow_model, mlflow_store
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.tracking import MetricSeries, Tracker, TrainingStatus

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)

SYSTEM_METRICS_SECONDS = 1
METRICS_IN_BATCH = 900  # MLflow takes 1,000 entries
PARAMS_IN_BATCH = 100
MAX_VALUE_LENGTH = 6000
MAX_DIGEST_LENGTH = 36


class MlflowTracker(Tracker):
    """Writes to the MLflow store of the settings.

    Metrics that cannot be written are sent with the next ones, so that an outage of the tracking server does not end a
    training. Opening the run and logging the model raise errors.
    """

    def __init__(self, settings: Settings, *, experiment: str = mlflow_store.EXPERIMENT, system_metrics: bool = True):
        self._settings = settings
        self._experiment = experiment
        self._experiment_id = ""
        self._run_id: str | None = None
        self._is_open = False
        self._unsent: list[Metric] = []
        self._with_system_metrics = system_metrics
        self._monitor: SystemMetricsMonitor | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow run id, None before `start`."""
        return self._run_id

    @property
    def run_url(self) -> str | None:
        """Page of the run in the MLflow UI, None before `start`."""
        return self._run_id and mlflow_store.run_url(self._settings, self._experiment_id, self._run_id)

    def start(
        self, run_name: str, *, params: Mapping[str, object], tags: Mapping[str, str], fingerprints: Mapping[str, str]
    ) -> None:
        """Open the run, and mark runs of killed processes as failed. Raises LvmError if the store cannot be used."""
        self.has_started = True
        client = mlflow_store.open_client(self._settings)
        mlflow_store.close_abandoned_runs(self._settings)
        self._experiment_id = mlflow_store.experiment_id(self._settings, self._experiment)
        described = {mlflow_store.DESCRIPTION_TAG: description_of(tags, "Not evaluated yet.")}
        all_tags = {**described, **tags, **{f"fingerprint.{name}": value for name, value in fingerprints.items()}}
        with mlflow_store.store_errors():
            run = client.create_run(self._experiment_id, run_name=run_name, tags=all_tags)
            self._run_id = run.info.run_id
            mlflow_store.note_open_run(self._settings, self._run_id)
            self._is_open = True
            self._log_params(params)
            self._log_inputs(fingerprints)
        self._start_system_metrics()

    def log_metrics(self, metrics: MetricSeries) -> None:
        """Send values in batches; values that cannot be sent are kept for the next call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._unsent += [
            Metric(name, float(value), now, step) for name, series in metrics.items() for step, value in series
        ]
        try:
            self._send_metrics()
        except LvmError as error:
            logger.warning("%d metric values wait for the next attempt: %s", len(self._unsent), error)

    def log_model(self, model_dir: Path) -> None:
        """Log a trained model as an MLflow model that `mlflow.pyfunc` loads.

        Raises:
            LvmError: If the store cannot be used; the MLflow model is then marked as failed.
        """
        log_model_to_run(self._settings, self._open_run_id, model_dir)

    def finish(self, status: TrainingStatus) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._monitor is not None:
            self._monitor.finish()
        run_id = self._open_run_id
        with mlflow_store.store_errors():
            self._send_metrics()
            self._client.set_terminated(run_id, status=status)
        mlflow_store.forget_open_run(self._settings, run_id)

    @property
    def _client(self) -> Any:
        return mlflow_store.open_client(self._settings)

    @property
    def _open_run_id(self) -> str:
        assert self._run_id is not None, "start the tracker first"
        return self._run_id

    def _send_metrics(self) -> None:
        with mlflow_store.store_errors():
            while self._unsent:
                self._client.log_batch(self._open_run_id, metrics=self._unsent[:METRICS_IN_BATCH])
                del self._unsent[:METRICS_IN_BATCH]

    def _log_params(self, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        entities = [Param(name, str(value)[:MAX_VALUE_LENGTH]) for name, value in flattened(params)]
        for first in range(0, len(entities), PARAMS_IN_BATCH):
            self._client.log_batch(self._open_run_id, params=entities[first : first + PARAMS_IN_BATCH])

    def _log_inputs(self, fingerprints: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        training = [InputTag("mlflow.data.context", "training")]
        inputs = [
            DatasetInput(Dataset(name, fingerprint[:MAX_DIGEST_LENGTH], "local", f'{{"product": "{name}"}}'), training)
            for name, fingerprint in fingerprints.items()
        ]
        if inputs:
            self._client.log_inputs(self._open_run_id, datasets=inputs)

    def _start_system_metrics(self) -> None:
        if not self._with_system_metrics:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        uri = mlflow_store.tracking_uri(self._settings)
        self._monitor = SystemMetricsMonitor(
            self._run_id, sampling_interval=SYSTEM_METRICS_SECONDS, samples_before_logging=5, tracking_uri=uri
        )
        self._monitor.start()


def description_of(tags: Mapping[str, str], verdict: str, *, links: Mapping[str, str] | None = None) -> str:
    """Return the text above a run (Markdown): verdict, links to pages, options that differ from their defaults."""
    shown = " · ".join(f"[{name}]({url})" for name, url in (links or {}).items())
    options = tags.get("options")
    return "\n\n".join(filter(None, (verdict, shown, f"Options that differ: {options}" if options else None)))


def log_model_to_run(settings: Settings, run_id: str, model_dir: Path) -> None:
    """Log a trained model to an MLflow run, which may be over.

    Raises:
        LvmError: If the store cannot be used or has no such run; the MLflow model is then marked as failed.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client = mlflow_store.open_client(settings)
    with mlflow_store.store_errors():
        experiment_id = client.get_run(run_id).info.experiment_id
        model = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
        status = LoggedModelStatus.FAILED
        try:
            _upload_model(settings, model.model_id, run_id, model_dir)
            status = LoggedModelStatus.READY
        finally:
            client.finalize_logged_model(model.model_id, status)
        client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, step=0)])


def log_scores_to_run(settings: Settings, run_id: str, scores: Mapping[str, float]) -> None:
    """Log scores that were computed after a training to its MLflow run; a score logged earlier is replaced.

    Raises:
        LvmError: If the store cannot be used or has no such run.
    """
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    with mlflow_store.store_errors():
        metrics = [Metric(name, value, now, 0) for name, value in scores.items()]
        mlflow_store.open_client(settings).log_batch(run_id, metrics=metrics)


def _upload_model(settings: Settings, model_id: str, run_id: str, model_dir: Path) -> None:
    client = mlflow_store.open_client(settings)
    settings.mlflow_dir.mkdir(parents=True, exist_ok=True)  # a client of a tracking server does not make it
    with tempfile.TemporaryDirectory(dir=settings.mlflow_dir) as folder:
        mlflow_model.write_description(Path(folder), model_dir=model_dir, model_id=model_id, run_id=run_id)
        client.log_model_artifacts(model_id, folder)
    client.log_model_artifacts(model_id, str(model_dir), mlflow_model.DATA)


def flattened(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every leaf of nested mappings under its dotted name; sequences are leaves."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield (
                f"{prefix}{name}",
                list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value,
            )
