"""Promises of the services: they come up, and nothing of them is left, however they are stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import psycopg
import pytest

from lvm_pipeline.adapters import dagster_api, embedded_postgres, service_guard, services
from lvm_pipeline.adapters.dagster_home import dagster_environment
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.adapters.service_processes import Service, Services
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import only_one
from lvm_pipeline.settings import CHECKOUT_DIR, Settings
from lvm_pipeline_tests.adapters.processes import processes_of, wait_until

MAKE_UI = ("make", "--old-file", f"{sys.prefix}/.installed", f"VENV={sys.prefix}", "ui")


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


def test_two_services_on_one_port_are_refused(open_tmp_path):
    port = free_port()
    settings = Settings(home=open_tmp_path, dagster_port=port, reports_port=port, mlflow_port=free_port())

    with pytest.raises(LvmError, match=rf"LVM_DAGSTER_PORT and LVM_REPORTS_PORT are both {port}; give each another"):
        services.run_services(settings)


def test_the_log_of_the_last_start_is_kept(tmp_path):
    settings = Settings(home=tmp_path)
    settings.dagster_dir.mkdir()
    guard = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for word in ("first", "second"):
        service = Service(name="speaker", command=("echo", word), is_ready=lambda: True)
        started = Services(settings=settings, guard=guard)
        started.start(service, os.environ)
        started.running[0].process.wait()
    guard.communicate()

    logs = settings.home / "logs"
    assert (logs / "speaker.log.1").read_text() == "first\n"
    assert (logs / "speaker.log").read_text() == "second\n"


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
    assert written.startswith(f"# Overwritten by every `lvm` command; edit {CHECKOUT_DIR / 'dagster.yaml'}.\n#")
    assert "DAGSTER_POSTGRES_URL" in written
    assert embedded_server.password not in written
    assert environment["DAGSTER_HOME"] == str(settings.dagster_dir)
    assert re.match(r"postgresql\+psycopg2://lvm:[^@]+@127\.0\.0\.1:\d+/dagster$", environment["DAGSTER_POSTGRES_URL"])
    json.dumps(environment)
