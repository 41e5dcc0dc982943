"""Examine Dagster's storage and daemon, and MLflow's store."""

import importlib.metadata
from collections.abc import Iterator
from datetime import UTC, datetime

from lvm_pipeline.adapters import databases, embedded_postgres, mlflow_store, postgres_facts, services
from lvm_pipeline.doctor.diagnosis import Diagnosis, Subject
from lvm_pipeline.doctor.source import never_started
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline.words import counted

DAGSTER = Subject("dagster", "storage")
DAEMON = Subject("dagster", "daemon")
MLFLOW = Subject("mlflow", "store")
CORRECT_URL = f"Correct {databases.DAGSTER_VARIABLE}, or unset it to use the built-in Postgres."
START_AGAIN = "Run `lvm down` and try again; the log is in LVM_HOME/postgres."


def examine_services(settings: Settings) -> Iterator[Diagnosis]:
    yield from examine_dagster(settings)
    yield examine_mlflow(settings)


def examine_dagster(settings: Settings) -> Iterator[Diagnosis]:
    """Report whether the storage fits this Dagster version, and whether a needed daemon is running."""
    try:
        if not _has_dagster_storage(settings):
            yield DAGSTER.ok("not created yet; the first run or `lvm ui` creates it")
            return
        from lvm_pipeline.defs.health import dagster_health

        health = dagster_health(settings)
    except LvmError as error:
        yield DAGSTER.refused(error, fix=START_AGAIN if settings.dagster_database_url is None else CORRECT_URL)
        return
    found = f"{counted(health.num_runs, 'run')}, schema {health.schema}, Dagster {health.version}"
    if health.schema != health.wanted_schema:
        yield DAGSTER.problem(
            f"{found} requires schema {health.wanted_schema}",
            f"Run `dagster instance migrate` with DAGSTER_HOME={settings.dagster_dir}, or install the older Dagster.",
        )
    else:
        yield DAGSTER.ok(found)
    yield _daemon(
        health.last_heartbeat, health.silent_daemons, health.switched_on, is_served=services.are_running(settings)
    )


def examine_mlflow(settings: Settings) -> Diagnosis:
    """Report whether the store answers, and its version."""
    version = importlib.metadata.version("mlflow")
    try:
        if settings.mlflow_tracking_uri is None and not _has_embedded(settings, databases.MLFLOW_DATABASE):
            return MLFLOW.ok(f"not created yet; the first training creates it (MLflow {version})")
        num_experiments = mlflow_store.count_experiments(settings)
        server = mlflow_store.server_version(settings)
    except LvmError as error:
        return MLFLOW.refused(error, fix="Correct LVM_MLFLOW_TRACKING_URI, or unset it to use the built-in store.")
    where = databases.shown(settings.mlflow_tracking_uri) if settings.mlflow_tracking_uri else "the built-in Postgres"
    found = f"{where} answers, MLflow {version}, {counted(num_experiments, 'experiment')}"
    if server is not None and server.split(".")[0] != version.split(".")[0]:
        return MLFLOW.warning(
            f"{found}, but the server is {server}", f"Run a server of MLflow {version.split('.')[0]}."
        )
    return MLFLOW.ok(found if server in (None, version) else f"{found} (server {server})")


def _daemon(
    last_heartbeat: datetime | None, silent: tuple[str, ...], switched_on: tuple[str, ...], *, is_served: bool
) -> Diagnosis:
    seen = "never seen" if last_heartbeat is None else f"last heartbeat {_ago(last_heartbeat)}"
    if not silent:
        return DAEMON.ok(f"running, {seen}" if is_served else f"{seen}; `lvm ui` is not running here")
    if is_served:
        return DAEMON.problem(
            f"services running, but no heartbeat from {', '.join(silent)} ({seen})", "Stop `lvm ui` and start it again."
        )
    if switched_on:
        return DAEMON.problem(
            f"no daemon is running ({seen}), but turned on by hand: {', '.join(switched_on)}",
            "Start the daemon with `lvm ui`, or turn off what needs it.",
        )
    return DAEMON.ok(
        f"not running ({seen}); schedules and sensors run only while the daemon does: start it with `lvm ui`"
    )


def _ago(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{seconds:.0f} s ago" if seconds < 600 else f"{seconds / 60:,.0f} minutes ago"


def _has_dagster_storage(settings: Settings) -> bool:
    if settings.dagster_database_url is None:
        return _has_embedded(settings, databases.DAGSTER_DATABASE, table="runs")
    return postgres_facts.has_table(databases.dagster_url(settings).replace("+psycopg2", "", 1), "runs")


def _has_embedded(settings: Settings, database: str, *, table: str | None = None) -> bool:
    """Whether the embedded server has a database, and a table in it."""
    if never_started(settings):
        return False
    server = embedded_postgres.ensure_running(settings.postgres_dir)
    if not postgres_facts.has_database(server.url("postgres"), database):
        return False
    return table is None or postgres_facts.has_table(server.url(database), table)
