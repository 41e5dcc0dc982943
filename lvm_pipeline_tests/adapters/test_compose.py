"""Promises of docker-compose.yml.

No container engine is needed: the same commands run with the same environment here, against the built-in Postgres.
"""

import json
import os
import signal
import urllib.request
from importlib.resources import files

import dagster as dg
import jsonschema
import psycopg
import pytest
from dagster._grpc import utils as dagster_timeouts

from lvm_pipeline.adapters import dagster_api, databases, embedded_postgres, mlflow_store
from lvm_pipeline.adapters.dagster_home import PATIENCE, SETTLE_SECONDS, dagster_environment, shipped_file
from lvm_pipeline.adapters.loopback import LOOPBACK, free_port
from lvm_pipeline.defs.dagster_internals import GRPC_INFO_TAG
from lvm_pipeline.settings import CHECKOUT_DIR, Settings
from lvm_pipeline_tests.adapters.compose import Host, UnsetVariableError, read_compose
from lvm_pipeline_tests.adapters.processes import processes_of, wait_until

COMPOSE_PATH = CHECKOUT_DIR / "docker-compose.yml"
OWN_SERVICES = (
    "mlflow",
    "reports",
    "code",
    "webserver",
    "daemon",
    "watch",
)  # in the order in which they depend on each other


@pytest.fixture
def compose():
    """The file as Compose sees it when the password is `pa55word`."""
    return read_compose(COMPOSE_PATH, {"LVM_POSTGRES_PASSWORD": "pa55word"})


@pytest.fixture(scope="module")
def schema():
    """The schema of the Compose specification."""
    path = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(path.read_text())


def test_the_file_follows_the_compose_specification(compose, schema):
    jsonschema.Draft202012Validator(schema).validate(compose)

    compose["services"]["code"]["helthcheck"] = compose["services"]["code"].pop("healthcheck")
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        jsonschema.Draft202012Validator(schema).validate(compose)


def test_the_password_is_asked_for_and_is_nowhere_in_the_file(compose):
    with pytest.raises(UnsetVariableError, match="LVM_POSTGRES_PASSWORD"):
        read_compose(COMPOSE_PATH, {})

    assert "pa55word" not in COMPOSE_PATH.read_text()
    with_password = [
        (name, variable)
        for name, service in compose["services"].items()
        for variable, value in service["environment"].items()
        if "pa55word" in value
    ]
    assert ("postgres", "POSTGRES_PASSWORD") in with_password
    assert {name for name, _ in with_password} == {"postgres", *OWN_SERVICES}
    assert "pa55word" not in json.dumps([service.get("command") for service in compose["services"].values()])


def test_every_port_is_on_loopback_and_every_service_has_a_health_check(compose):
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, (name, needed)


def test_all_that_the_file_names_exists(compose):
    declared = set(compose["volumes"])
    for service in compose["services"].values():
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= declared
        assert {config["source"] for config in service.get("configs", [])} <= set(compose["configs"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])
    assert (CHECKOUT_DIR / compose["configs"]["dagster"]["file"]).resolve() == shipped_file("dagster.yaml")


def test_settings_understand_the_environment(compose, monkeypatch):
    for name, value in compose["services"]["code"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()

    assert databases.source_url(settings) == "postgresql://lvm:pa55word@postgres:5432/lvm"
    assert settings.mlflow_tracking_uri == "http://mlflow:5000"
    assert settings.ui_address == "http://127.0.0.1:3000"
    assert settings.alert_url is None


def test_alerts_and_retraining_are_set_from_outside():
    given = {
        "LVM_ALERT_URL": "ntfys://ntfy.example.org/lvm",
        "LVM_RETRAINED_ARCHITECTURES": "gru",
        "LVM_RETRAIN_ON": "new_data",
        "LVM_RETRAINING_CRON": "0 1 * * *",
        "LVM_OBSERVATION_CRON": "*/5 * * * *",
        "LVM_DAGSTER_URL": "https://dagster.example.org",
    }
    services = read_compose(COMPOSE_PATH, {"LVM_POSTGRES_PASSWORD": "pa55word", **given})["services"]

    for name in ("code", "daemon", "watch"):
        assert services[name]["environment"].items() >= given.items()


def test_every_other_setting_is_read_from_a_file_that_git_does_not_track(compose):
    for name in OWN_SERVICES:
        assert compose["services"][name]["env_file"] == [{"path": "lvm.env", "required": False}], name

    assert "/lvm.env" in (CHECKOUT_DIR / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("port", ["5000", "5999"])
def test_links_lead_to_where_a_browser_outside_finds_mlflow(monkeypatch, port):
    compose = read_compose(COMPOSE_PATH, {"LVM_POSTGRES_PASSWORD": "pa55word", "LVM_MLFLOW_PORT": port})
    for name, value in compose["services"]["code"]["environment"].items():
        monkeypatch.setenv(name, value)

    link = mlflow_store.run_url(Settings(), "1", "abc")

    assert link == f"http://127.0.0.1:{port}/#/experiments/1/runs/abc"
    assert f"127.0.0.1:{port}:5000" in compose["services"]["mlflow"]["ports"]
    assert "127.0.0.1:*" in compose["services"]["mlflow"]["command"][-1]


def test_automation_waits_for_late_events_wherever_it_runs(compose):
    environment = compose["services"]["code"]["environment"]

    assert environment["DAGSTER_AUTOMATION_TICK_SETTLE_SECONDS"] == SETTLE_SECONDS


@pytest.mark.postgres
def test_a_run_may_take_minutes_to_start_wherever_it_runs(compose, tmp_path, postgres_url, monkeypatch):
    settings = Settings(home=tmp_path, dagster_database_url=postgres_url)
    for environment in (compose["services"]["daemon"]["environment"], dagster_environment(settings)):
        assert environment.items() >= PATIENCE.items()

    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    assert dagster_timeouts.default_grpc_timeout() == 300
    assert dagster_timeouts.default_grpc_server_shutdown_grace_period() == 60


@pytest.fixture
def stack(open_tmp_path):
    """A Postgres as the file's service makes one, and this machine in place of the containers."""
    folder = open_tmp_path
    server = embedded_postgres.ensure_running(folder / "postgres")
    compose = read_compose(COMPOSE_PATH, {"LVM_POSTGRES_PASSWORD": server.password})
    postgres = compose["services"]["postgres"]["environment"]
    assert postgres["POSTGRES_USER"] == embedded_postgres.USER
    databases.create_database(server, postgres["POSTGRES_DB"])
    with psycopg.connect(server.url(postgres["POSTGRES_DB"]), autocommit=True) as connection:
        for statement in compose["configs"]["databases"]["content"].split(";")[:-1]:
            connection.execute(statement)
    ports = {port: str(free_port()) for port in ("3000", "3001", "4266", "5000")}
    names = {"http://mlflow:5000": f"http://{LOOPBACK}:{ports['5000']}", "host: code": f"host: {LOOPBACK}"}
    names |= {"postgres:5432": f"{LOOPBACK}:{server.port}", "0.0.0.0": LOOPBACK}
    names |= {path: str(folder / path[1:]) for path in ("/state", "/dagster")} | ports
    host = Host(names=names, logs_dir=folder / "logs")
    for name in ("state", "dagster", "logs"):
        (folder / name).mkdir()
    (folder / "dagster" / "dagster.yaml").write_text(shipped_file("dagster.yaml").read_text())
    (folder / "dagster" / "workspace.yaml").write_text(host.here(compose["configs"]["workspace"]["content"]))
    yield compose["services"], host
    for process in processes_of(folder):
        if process.name() != "postgres":
            process.kill()
    embedded_postgres.stop(folder / "postgres")


@dg.job
def nothing():
    pass


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(900)
def test_a_run_lost_with_the_code_server_is_failed_when_it_starts_again(stack, monkeypatch):
    services, host = stack
    environment = host.environment(services["code"])
    for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
        monkeypatch.setenv(name, environment[name])
    address = {"host": LOOPBACK, "port": int(host.names["4266"])}
    with dg.DagsterInstance.get() as instance:
        lost = instance.create_run_for_job(
            nothing, status=dg.DagsterRunStatus.STARTED, tags={GRPC_INFO_TAG: json.dumps(address)}
        )
        child = host.start("code", services["code"])
        try:
            assert wait_until(
                lambda: instance.get_run_by_id(lost.run_id).status == dg.DagsterRunStatus.FAILURE, seconds=300
            ), (host.logs_dir / "code.log").read_text()
            assert host.is_healthy(services["code"])
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(timeout=90)


def test_a_run_may_end_before_its_container_does(compose):
    seconds = {name: int(compose["services"][name]["stop_grace_period"].rstrip("s")) for name in OWN_SERVICES}

    assert seconds["code"] > int(PATIENCE["DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD"])


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(1800)
def test_every_command_runs_and_becomes_healthy(stack):
    services, host = stack
    started = {}
    try:
        for name in OWN_SERVICES:
            started[name] = host.start(name, services[name])
            log_path = host.logs_dir / f"{name}.log"
            assert wait_until(lambda n=name: host.is_healthy(services[n]), seconds=600), log_path.read_text()
            assert started[name].poll() is None, log_path.read_text()

        address = f"http://{host.names['0.0.0.0']}:{host.names['3000']}"
        assert wait_until(lambda: dagster_api.has_loaded_definitions(address), seconds=300)
        assert wait_until(lambda: dagster_api.has_healthy_daemons(address), seconds=300)
        as_the_others_ask = urllib.request.Request(
            f"{host.names['http://mlflow:5000']}/api/2.0/mlflow/experiments/search?max_results=1",
            headers={"Host": f"mlflow:{host.names['5000']}"},
        )
        assert json.loads(urllib.request.urlopen(as_the_others_ask).read())["experiments"]
    finally:
        for child in started.values():
            os.killpg(child.pid, signal.SIGTERM)
        for child in started.values():
            child.wait(timeout=90)
