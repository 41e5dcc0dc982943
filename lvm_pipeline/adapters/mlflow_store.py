"""The MLflow store: the database `mlflow` on the built-in Postgres with artefacts in `LVM_HOME/mlflow`, or a server.

MLflow is imported inside functions: this takes seconds, and MLflow reads its environment when it is imported.

A killed training cannot close its run. So the owning process of every open run is recorded, and
`close_abandoned_runs` marks the runs of dead processes as failed.
"""

import http.client
import json
import logging
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from lvm_pipeline.adapters import databases, mlflow_artifacts, processes
from lvm_pipeline.adapters.database_urls import without_logins
from lvm_pipeline.errors import LvmError, ServiceError, first_line
from lvm_pipeline.files import write_json
from lvm_pipeline.imports import lasting_imports
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

EXPERIMENT = "lvm"
DESCRIPTION_TAG = "mlflow.note.content"  # the text that the MLflow UI shows above a run or an experiment
SUPPORTED_URI = re.compile(r"(https?|(postgresql|sqlite)(\+\w+)?)://")
ANSWER_SECONDS = 5
NO_ANSWER = (OSError, ValueError, http.client.HTTPException)  # the last: what answers is no web server
QUIET_LOGGERS = ("mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor", "alembic")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "10",
}


class MissingRunError(LvmError):
    """A run or model was deleted in MLflow."""


_opening = threading.Lock()  # two threads that ask at once are given one client


def tracking_uri(settings: Settings) -> str:
    """Return the URI of the store; starts the built-in Postgres where that is the store. Never print it.

    Raises:
        LvmError: If it is of no kind that is supported.
    """
    if settings.mlflow_tracking_uri is None:
        return databases.mlflow_url(settings)
    if not SUPPORTED_URI.match(settings.mlflow_tracking_uri):
        raise LvmError(
            "LVM_MLFLOW_TRACKING_URI must be the http(s) address of a server, or a postgresql:// or sqlite:// URL."
        )
    return settings.mlflow_tracking_uri


def is_there(settings: Settings) -> bool:
    """Whether there is a store to ask: a tracking server, or what an earlier command left in LVM_HOME."""
    is_built_in = settings.mlflow_tracking_uri is None
    return not is_built_in or settings.postgres_dir.exists() or settings.mlflow_dir.exists()


def open_client(settings: Settings) -> "MlflowClient":
    """Return a client of the store, one for each store and process. The tables of a local store are created.

    Raises:
        LvmError: If the tracking server does not answer.
    """
    with _opening:
        return _client(tracking_uri(settings), settings.mlflow_dir, is_built_in=settings.mlflow_tracking_uri is None)


def open_ahead(settings: Settings) -> None:
    """Open the client in a thread, beside other work: to import MLflow and make its tables takes five seconds.

    `open_client` waits for it. An error is left to `open_client`, which meets it again.
    """

    def open_quietly() -> None:
        with suppress(Exception):
            open_client(settings)

    threading.Thread(target=open_quietly, name="mlflow").start()


@lru_cache(maxsize=4)
def _client(uri: str, mlflow_dir: Path, *, is_built_in: bool) -> "MlflowClient":
    if uri.startswith("http"):
        _check_answers(uri)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    with lasting_imports():
        from mlflow import MlflowClient

    with store_errors():
        if not uri.startswith("http"):
            _make_tables(uri, mlflow_dir, is_built_in=is_built_in)
        if is_built_in:
            mlflow_artifacts.serve_from(uri, mlflow_dir)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_tables(uri: str, mlflow_dir: Path, *, is_built_in: bool) -> None:
    """Create the tables under a lock in LVM_HOME; MLflow's own lock is in the temp folder, which users share."""
    with lasting_imports():
        from mlflow.store.db import utils as database_utils
        from mlflow.store.model_registry import sqlalchemy_store as _registry  # noqa: F401 - declares its tables
        from mlflow.store.tracking import sqlalchemy_store as _tracking  # noqa: F401 - declares its tables

        from lvm_pipeline.adapters import mlflow_internals

    mlflow_dir.mkdir(parents=True, exist_ok=True)
    if uri.startswith("sqlite:"):
        mlflow_internals.make_parent_dirs_if_sqlite(uri)
    engine = database_utils.create_sqlalchemy_engine(uri)
    try:
        with FileLock(mlflow_dir / "tables.lock"):
            if not mlflow_internals.all_tables_exist(engine):
                mlflow_internals.initialize_tables(engine)
            if is_built_in:
                mlflow_artifacts.rewrite_earlier_addresses(engine)
    finally:
        engine.dispose()


def _check_answers(uri: str) -> None:
    """Fail at once if no server answers, and not after minutes of retries."""
    try:
        with urllib.request.urlopen(f"{without_logins(uri).rstrip('/')}/health", timeout=ANSWER_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # a server answers; later requests will show if it is MLflow and knows the user
    except NO_ANSWER as error:
        raise ServiceError(
            f"No MLflow server answers at {databases.shown(uri)} ({first_line(error)}); start it, or unset "
            "LVM_MLFLOW_TRACKING_URI."
        ) from None


@contextmanager
def store_errors() -> Iterator[None]:
    """Convert errors of MLflow and its database driver to `LvmError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = without_logins(first_line(error))
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST" or "Current state is deleted" in reason:
            raise MissingRunError(
                f"The MLflow run or model no longer exists: {reason}; restore it in MLflow, or train the model again "
                "with --again."
            ) from error
        is_down = isinstance(error, OperationalError) or "OperationalError" in str(error)
        raise (ServiceError if is_down else LvmError)(
            f"The MLflow store cannot be used: {reason} (check LVM_MLFLOW_TRACKING_URI; for the built-in store, run "
            "`lvm down` and try again)."
        ) from error


def experiment_id(settings: Settings, name: str = EXPERIMENT) -> str:
    """Return the id of an experiment, made if missing and restored if deleted; several processes may do so at once."""
    from mlflow.exceptions import MlflowException

    client = open_client(settings)
    is_server = tracking_uri(settings).startswith("http")  # which decides itself where artefacts go
    artifacts = None if is_server else (settings.mlflow_dir / "artifacts" / name).as_uri()
    if settings.mlflow_tracking_uri is None:
        artifacts = mlflow_artifacts.address_of(name)
    with store_errors():
        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return client.create_experiment(name, artifact_location=artifacts)
            except MlflowException:
                known = client.get_experiment_by_name(name)  # another process was faster
                if known is None:
                    raise
        if known.lifecycle_stage == "deleted":
            restored = f"The experiment {name} had been deleted in MLflow; it was restored, with its runs."
            client.restore_experiment(known.experiment_id)
            client.set_experiment_tag(known.experiment_id, DESCRIPTION_TAG, restored)
            logger.warning("%s", restored)
        return known.experiment_id


def describe_run(settings: Settings, run_id: str, text: str) -> None:
    """Set the description of a run. Raises LvmError if the run was deleted or the store cannot be used."""
    with store_errors():
        open_client(settings).set_tag(run_id, DESCRIPTION_TAG, text)


def count_experiments(settings: Settings) -> int:
    """Return the number of experiments in the store, without leaving a connection open.

    Raises:
        LvmError: If it cannot be reached, or its tables are of another MLflow version.
    """
    uri = tracking_uri(settings)
    if uri.startswith("http"):
        with store_errors():
            return len(open_client(settings).search_experiments())
    from mlflow.store.db import utils as database_utils
    from sqlalchemy import text

    from lvm_pipeline.adapters import mlflow_internals

    with store_errors():
        engine = database_utils.create_sqlalchemy_engine(uri)
        try:
            mlflow_internals.verify_schema(engine)
            with engine.connect() as connection:
                return connection.execute(text("SELECT count(*) FROM experiments")).scalar_one()
        finally:
            engine.dispose()


def server_version(settings: Settings) -> str | None:
    """Return the version of the tracking server, None if there is none or it does not answer."""
    uri = settings.mlflow_tracking_uri
    if uri is None or not uri.startswith("http"):
        return None
    try:
        with urllib.request.urlopen(f"{without_logins(uri).rstrip('/')}/version", timeout=ANSWER_SECONDS) as answer:
            return answer.read().decode("utf-8", errors="replace").strip()[:20]
    except NO_ANSWER:
        return None


def ui_url(settings: Settings) -> str:
    """Return the address of the MLflow web UI, as a browser reaches it; a user and password are left out."""
    uri = settings.mlflow_ui_url or settings.mlflow_tracking_uri
    return (
        without_logins(uri).rstrip("/")
        if uri and uri.startswith("http")
        else f"http://127.0.0.1:{settings.mlflow_port}"
    )


def run_url(settings: Settings, experiment: str, run_id: str) -> str:
    """Return the page of a run, given its experiment's id."""
    return f"{ui_url(settings)}/#/experiments/{experiment}/runs/{run_id}"


@dataclass(frozen=True, kw_only=True)
class _OpenRun:
    """The owner of an open run; its start is stored because process ids are reused."""

    run_id: str
    pid: int
    process_started: str | float  # a number in records of earlier versions, whose processes have ended
    host: str

    def is_abandoned(self) -> bool:
        """Whether the process has ended; False for a process on another host."""
        return processes.has_ended(host=self.host, pid=self.pid, start=self.process_started)


def note_open_run(settings: Settings, run_id: str) -> None:
    """Record that this process owns an open run."""
    pid = os.getpid()
    note = _OpenRun(run_id=run_id, pid=pid, process_started=processes.start_of(pid) or "", host=socket.gethostname())
    _notes_dir(settings).mkdir(parents=True, exist_ok=True)
    write_json(_notes_dir(settings) / f"{run_id}.json", asdict(note))


def forget_open_run(settings: Settings, run_id: str) -> None:
    """Delete the record of a run that was closed."""
    (_notes_dir(settings) / f"{run_id}.json").unlink(missing_ok=True)


def close_abandoned_runs(settings: Settings) -> list[str]:
    """Mark runs as FAILED whose process exited without closing them, unless they were deleted; return their ids."""
    abandoned = [run.run_id for run in _open_runs(settings) if run.is_abandoned()]
    for run_id in abandoned:
        with suppress(MissingRunError), store_errors():
            client = open_client(settings)
            client.set_tag(
                run_id, "lvm.failure", "the training process exited without closing its run (killed, or out of memory)"
            )
            client.set_terminated(run_id, status="FAILED")
        forget_open_run(settings, run_id)
    return abandoned


def _notes_dir(settings: Settings) -> Path:
    return settings.mlflow_dir / "open_runs"


def _open_runs(settings: Settings) -> Iterator[_OpenRun]:
    for path in sorted(_notes_dir(settings).glob("*.json")):
        try:
            yield _OpenRun(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, FileNotFoundError):
            path.unlink(missing_ok=True)
