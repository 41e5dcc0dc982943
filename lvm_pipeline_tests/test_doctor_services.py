"""Promises of `lvm doctor` about Dagster's storage and daemon and MLflow's store."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from lvm_pipeline.adapters import databases, embedded_postgres
from lvm_pipeline.defs.launch import open_instance
from lvm_pipeline.doctor import services
from lvm_pipeline.doctor.diagnosis import State
from lvm_pipeline.files import only_one
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.adapters.source_tables import execute
from lvm_pipeline_tests.diagnoses import by_subject, the_problem


@pytest.mark.parametrize("uri", ["http://me:s3cret-word@127.0.0.1:1", "http://nowhere.invalid:5000"])
def test_an_unreachable_tracking_server_is_reported(tmp_path, uri):
    problem = the_problem([services.examine_mlflow(Settings(home=tmp_path, mlflow_tracking_uri=uri))])

    assert "No MLflow server answers" in problem.found
    assert "s3cret" not in str(problem)
    assert "LVM_MLFLOW_TRACKING_URI" in problem.fix


def test_a_store_of_another_mlflow_is_reported(tmp_path):
    import sqlite3

    from lvm_pipeline.adapters import mlflow_store

    settings = Settings(home=tmp_path, mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    mlflow_store.open_client(settings)
    assert services.examine_mlflow(settings).state is State.OK
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")

    assert "out-of-date" in the_problem([services.examine_mlflow(settings)]).found


def switch_on_a_schedule(instance):
    """Leave what the UI's switch leaves in the storage."""
    from dagster._core.remote_origin import (
        GrpcServerCodeLocationOrigin,
        RemoteInstigatorOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.scheduler.instigation import (
        InstigatorState,
        InstigatorStatus,
        InstigatorType,
        ScheduleInstigatorData,
    )

    location = GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1, location_name="lvm_pipeline")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "weekly_retraining")
    data = ScheduleInstigatorData("0 3 * * 0", start_timestamp=0.0)
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.postgres
def test_a_schedule_without_a_daemon_and_a_storage_of_another_dagster_are_reported(open_tmp_path):
    settings = Settings(home=open_tmp_path / "home")
    server = embedded_postgres.ensure_running(settings.postgres_dir)
    try:
        with open_instance(settings) as instance:
            result = by_subject(services.examine_dagster(settings))
            assert {diagnosis.state for diagnosis in result.values()} == {State.OK}
            assert "not running (never seen)" in result["dagster daemon"].found

            switch_on_a_schedule(instance)
            problem = the_problem(services.examine_dagster(settings))
            assert "no daemon is running (never seen), but turned on by hand: weekly_retraining" in problem.found
            with services_running(settings):
                assert "services running, but" in the_problem(services.examine_dagster(settings)).found

        url = server.url(databases.DAGSTER_DATABASE)
        execute(url, "UPDATE alembic_version SET version_num = '16689497301f'", "DELETE FROM instigators")
        problem = the_problem(services.examine_dagster(settings))
        assert "16689497301f" in problem.found
        assert "dagster instance migrate" in problem.fix
    finally:
        embedded_postgres.stop(settings.postgres_dir)


@pytest.mark.parametrize(
    ("is_served", "silent", "found"),
    [
        (True, (), "running, last heartbeat 9 s ago"),
        (False, (), "last heartbeat 9 s ago; `lvm ui` is not running here"),
        (
            False,
            ("SENSOR",),
            "not running (last heartbeat 9 s ago); schedules and sensors run only while the daemon does",
        ),
    ],
)
def test_the_daemon_is_said_to_run_only_while_the_services_do(is_served, silent, found):
    seen = datetime.now(UTC) - timedelta(seconds=9)

    result = services._daemon(seen, silent, (), is_served=is_served)

    assert result.state is State.OK
    assert result.found.startswith(found)


@contextmanager
def services_running(settings):
    """Hold what `lvm ui` holds as long as it runs."""
    with only_one(settings.dagster_dir / "services.lock", "busy"):
        yield


@pytest.mark.postgres
def test_an_external_database_of_dagster_is_examined_and_no_embedded_one_is_made(tmp_path, postgres_url):
    settings = Settings(home=tmp_path, dagster_database_url=postgres_url)
    (result,) = services.examine_dagster(settings)
    assert result.found.startswith("not created yet")

    with open_instance(settings):
        result = by_subject(services.examine_dagster(settings))

    assert result["dagster storage"].found.startswith("0 runs")
    assert {diagnosis.state for diagnosis in result.values()} == {State.OK}
    assert not settings.postgres_dir.exists()


def test_an_unreachable_external_database_of_dagster_is_reported(tmp_path):
    settings = Settings(home=tmp_path, dagster_database_url="postgresql://me:s3cret-word@127.0.0.1:1/dagster")

    problem = the_problem(services.examine_dagster(settings))

    assert "No Postgres answers" in problem.found
    assert "LVM_DAGSTER_DATABASE_URL" in str(problem)
    assert "s3cret" not in str(problem)
