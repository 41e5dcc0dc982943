"""Promises of the services: they come up, and nothing of them is left, however they are stopped."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from lvm_pipeline.adapters import dagster_api, databases, embedded_postgres, service_guard, services
from lvm_pipeline.adapters.dagster_home import dagster_environment
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import only_one
from lvm_pipeline.settings import CHECKOUT_DIR, Settings
from lvm_pipeline_tests.adapters.processes import processes_of, wait_until

logger = logging.getLogger(__name__)
WITH_SMALL_DEFINITIONS = (sys.executable, "-m", "lvm_pipeline_tests.adapters.run_services")
MAKE_UI = ("make", "--old-file", f"{sys.prefix}/.installed", f"VENV={sys.prefix}", "ui")
LAUNCH = """mutation { launchRun(executionParams: {selector: {repositoryLocationName: "lvm_pipeline",
  repositoryName: "__repository__", jobName: "__ASSET_JOB", assetSelection: [{path: ["takes_long"]}]}})
  { __typename ... on LaunchRunSuccess { run { runId } } } }"""


class RunningServices:
    """The services of a home, in a process of their own."""

    def __init__(self, home, *command):
        self.settings = Settings(home=home, dagster_port=free_port(), mlflow_port=free_port(), reports_port=free_port())
        variables = {
            "LVM_HOME": str(home),
            "LVM_DAGSTER_PORT": str(self.settings.dagster_port),
            "LVM_MLFLOW_PORT": str(self.settings.mlflow_port),
            "LVM_REPORTS_PORT": str(self.settings.reports_port),
            "PYTHONPATH": str(CHECKOUT_DIR),  # the definitions under test are not installed
        }
        self.process = subprocess.Popen(
            command,
            env=os.environ | variables,
            cwd=CHECKOUT_DIR,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def wait_until_up(self):
        while "Ctrl-C" not in self.output:
            line = self.process.stdout.readline()
            assert line, f"the services did not come up: {self.output}"
            self.output += line
        return self

    def ask(self, query):
        address = services.dagster_address(self.settings)
        return dagster_api.ask(address, query)

    def run_status(self, run_id):
        url = databases.dagster_url(self.settings).replace("+psycopg2", "")
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT status FROM runs WHERE run_id = %s", [run_id]).fetchone()[0]


@pytest.fixture
def home(open_tmp_path):
    """An empty home."""
    return open_tmp_path / "home"


@pytest.fixture
def start_services(home):
    """Start the services of the home; whatever the test did, nothing of them is left after it."""
    started = []

    def start(*command):
        started.append(RunningServices(home, *(command or WITH_SMALL_DEFINITIONS)))
        return started[-1].wait_until_up()

    yield start
    for process in processes_of(home):
        process.kill()
    for services_ in started:
        services_.process.communicate()


def kill_at_once(processes):
    """Kill processes as the kernel does when memory runs out: none sees another one die and says a last word."""
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(1800)
def test_all_come_up_and_nothing_is_left_when_their_parent_is_killed(home, start_services):
    running = start_services()
    password = embedded_postgres.ensure_running(running.settings.postgres_dir).password

    for port in (running.settings.dagster_port, running.settings.mlflow_port, running.settings.reports_port):
        assert f"http://127.0.0.1:{port}" in running.output
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert b"<html" in page.read().lower()
    assert dagster_api.has_healthy_daemons(services.dagster_address(running.settings))
    commands = [" ".join(process.cmdline()) for process in processes_of(home)]
    assert len(commands) >= 7
    logs = [path.read_text() for path in (home / "logs").iterdir()]
    assert not [words for words in (*commands, *logs, running.output) if password in words]
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in processes_of(home)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}

    running.process.kill()
    running.process.communicate(timeout=60)

    assert wait_until(lambda: not processes_of(home), seconds=120), processes_of(home)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(1800)
def test_nothing_is_left_of_the_readmes_command_when_make_is_killed(home, start_services):
    running = start_services(*MAKE_UI)
    assert dagster_api.has_loaded_definitions(services.dagster_address(running.settings))

    running.process.kill()

    assert wait_until(lambda: not processes_of(home), seconds=120), processes_of(home)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(1800)
def test_a_run_in_progress_is_cancelled_and_a_killed_one_is_found_at_the_next_start(home, start_services):
    running = start_services()
    run_id = running.ask(LAUNCH)["launchRun"]["run"]["runId"]
    assert wait_until(lambda: running.run_status(run_id) == "STARTED", seconds=300)
    kill_at_once([process for process in processes_of(home) if process.name() != "postgres"])
    running.process.wait()
    assert running.run_status(run_id) == "STARTED"

    running = start_services()
    assert running.run_status(run_id) == "CANCELED"

    run_id = running.ask(LAUNCH)["launchRun"]["run"]["runId"]
    assert wait_until(lambda: running.run_status(run_id) == "STARTED", seconds=600), "the pool's place was not freed"
    running.process.send_signal(signal.SIGINT)
    running.process.communicate(timeout=60)
    assert running.run_status(run_id) == "CANCELED"


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(900)
def test_a_daemon_that_hangs_and_one_that_ends_are_reported_and_ctrl_c_leaves_nothing(
    home, start_services, receiver, monkeypatch
):
    monkeypatch.setenv("LVM_ALERT_URL", receiver.url)
    monkeypatch.setenv("LVM_DAEMON_SILENCE_SECONDS", "60")  # a heartbeat comes every 30
    running = start_services()
    (daemon,) = [process for process in processes_of(home) if "dagster-daemon" in " ".join(process.cmdline()[:2])]

    daemon.suspend()
    assert wait_until(lambda: receiver.messages, seconds=400)
    assert receiver.messages[0]["title"] == "Dagster's daemon is silent"
    daemon.kill()

    assert wait_until(lambda: len(receiver.messages) > 1, seconds=60)
    assert receiver.messages[1]["title"] == "dagster-daemon died and is started again"
    assert "dagster-daemon exited with code" in receiver.messages[1]["message"]
    assert wait_until(lambda: dagster_api.has_healthy_daemons(services.dagster_address(running.settings)), seconds=200)
    running.process.send_signal(signal.SIGINT)
    rest, _ = running.process.communicate(timeout=60)
    assert running.process.returncode == 0, rest
    assert wait_until(lambda: not processes_of(home), seconds=120), processes_of(home)
    assert len(receiver.messages) == 2
    logs = [path.read_text() for path in (home / "logs").iterdir()]
    assert not [words for words in (*logs, rest, running.output) if "s3cret" in words]


def processes_named(home, name):
    """The processes of a home whose name, or the first words of whose command, hold a name."""
    found = []
    for process in processes_of(home):
        with suppress(psutil.NoSuchProcess):
            if name in f"{process.name()} {' '.join(process.cmdline()[:3])}":
                found.append(process)
    return found


def seconds_until_back(home, name, is_ready):
    """Kill every process of a name, and wait until others of it are there and ready."""
    killed = processes_named(home, name)
    assert killed
    kill_at_once(killed)
    began = time.monotonic()

    def is_back():
        there = processes_named(home, name)
        return there and not {each.pid for each in there} & {each.pid for each in killed} and answers(is_ready)

    assert wait_until(is_back, seconds=300), name
    return time.monotonic() - began


def answers(is_ready):
    """Whether a service is ready; while Postgres is away, others answer with errors."""
    try:
        return is_ready()
    except LvmError:
        return False


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.postgres
@pytest.mark.timeout(1800)
def test_each_service_that_is_killed_comes_back_and_runs_end_as_they_should(
    home, start_services, receiver, monkeypatch
):
    monkeypatch.setenv("LVM_ALERT_URL", receiver.url)
    running = start_services()
    settings = running.settings
    address = services.dagster_address(settings)
    is_ready = {
        "mlflow": lambda: dagster_api.get(f"http://127.0.0.1:{settings.mlflow_port}/health") is not None,
        "report_pages": lambda: dagster_api.get(f"http://127.0.0.1:{settings.reports_port}") is not None,
        "dagster-webserver": lambda: dagster_api.has_loaded_definitions(address),
        "dagster-daemon": lambda: dagster_api.has_healthy_daemons(address),
        "code-server": lambda: dagster_api.has_loaded_definitions(address),
        "postgres": lambda: dagster_api.has_healthy_daemons(address),
    }
    run_id = launch_run(running)
    for name, condition in is_ready.items():
        if name == "postgres":
            run_id = launch_run(running)
        logger.info("%s: back after %.1f s", name, seconds_until_back(home, name, condition))
        if name == "code-server":
            wait_for_status(running, run_id, "FAILURE", seconds=300)
            assert re.search("interrupted unexpectedly|a training resumes", failure_of(running, run_id))
        elif name == "postgres":  # the run may have needed it just then
            assert wait_until(lambda: not processes_named(home, "lost_runs"), seconds=300)
            logger.info("the run is %s", running.run_status(run_id))
            assert running.run_status(run_id) == "STARTED" or failure_of(running, run_id)
        else:
            assert running.run_status(run_id) == "STARTED", f"the run needs no {name}"
    assert running.process.poll() is None
    titles = [message["title"] for message in receiver.messages]
    assert len(titles) == len(set(titles)), "a service is reported once"
    assert "The embedded Postgres died and is started again" in titles


def launch_run(running):
    """Launch the run that takes long, once the web server can, and wait until it executes."""
    for _ in range(60):
        answer = running.ask(LAUNCH)
        run_id = ((answer or {}).get("launchRun", {}).get("run") or {}).get("runId")
        if run_id is not None:
            break
        time.sleep(1)
    wait_for_status(running, run_id, "STARTED", seconds=600)
    return run_id


def wait_for_status(running, run_id, status, *, seconds):
    assert wait_until(lambda: running.run_status(run_id) == status, seconds=seconds), running.run_status(run_id)


def failure_of(running, run_id):
    url = databases.dagster_url(running.settings).replace("+psycopg2", "")
    with psycopg.connect(url) as connection:
        query = "SELECT event FROM event_logs WHERE run_id = %s AND dagster_event_type = 'PIPELINE_FAILURE'"
        return connection.execute(query, [run_id]).fetchone()[0]


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(1800)
def test_lvm_down_waits_for_runs_and_stops_all_in_order_when_forced(home, start_services):
    running = start_services()
    run_id = launch_run(running)
    lvm = str(Path(sys.prefix) / "bin" / "lvm")
    environment = os.environ | {"LVM_HOME": str(home), "PYTHONPATH": str(CHECKOUT_DIR)}
    command = [sys.executable, lvm, "down"]

    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "A Dagster run is under way; wait for the end, or cancel with `lvm down --force`." in refused.stderr
    assert running.run_status(run_id) == "STARTED"

    done = subprocess.run([*command, "--force"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Stopped the services and the embedded Postgres." in done.stdout
    running.process.communicate(timeout=60)
    assert running.process.returncode == 0
    assert wait_until(lambda: not processes_of(home), seconds=60)
    assert running.run_status(run_id) == "CANCELED"


def test_a_taken_port_is_named_before_anything_starts(open_tmp_path):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = Settings(home=open_tmp_path, dagster_port=port, mlflow_port=free_port())
        with pytest.raises(LvmError, match=rf"Port {port} is used .* LVM_DAGSTER_PORT"):
            services.run_services(settings)

    assert not (open_tmp_path / "postgres").exists()


def test_the_same_home_is_served_once(open_tmp_path):
    settings = Settings(home=open_tmp_path, dagster_port=free_port(), mlflow_port=free_port())
    with only_one(settings.dagster_dir / "services.lock", "busy"), pytest.raises(LvmError, match="already running"):
        services.run_services(settings)


def test_the_guard_ends_what_ignores_a_polite_request():
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", stubborn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
        child.stdout.readline()
        began = time.monotonic()
        service_guard.end_groups([child.pid], grace_seconds=0.5)
        assert child.wait(timeout=5) == -signal.SIGKILL
        assert time.monotonic() - began >= 0.5


@pytest.mark.slow
@pytest.mark.postgres
def test_the_guard_leaves_a_server_that_others_use(open_tmp_path):
    directory = open_tmp_path / "postgres"
    server = embedded_postgres.ensure_running(directory)
    with psycopg.connect(server.url("postgres")):
        assert not service_guard.stop_unless_used(directory, patience_seconds=0.2)
    assert service_guard.stop_unless_used(directory)
    assert not service_guard.stop_unless_used(directory)


@pytest.mark.postgres
def test_dagsters_home_follows_the_shipped_settings_and_holds_no_secret(lvm_home, embedded_server):
    settings = Settings(home=lvm_home)
    (settings.dagster_dir).mkdir()
    (settings.dagster_dir / "dagster.yaml").write_text("storage: of an older version")

    environment = dagster_environment(settings)

    written = (settings.dagster_dir / "dagster.yaml").read_text()
    assert "DAGSTER_POSTGRES_URL" in written
    assert embedded_server.password not in written
    assert environment["DAGSTER_HOME"] == str(settings.dagster_dir)
    assert re.match(r"postgresql\+psycopg2://lvm:[^@]+@127\.0\.0\.1:\d+/dagster$", environment["DAGSTER_POSTGRES_URL"])
    json.dumps(environment)
