"""What becomes of runs when services are stopped, or die."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lvm_pipeline.adapters import dagster_api, services
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import CHECKOUT_DIR
from lvm_pipeline_tests.adapters.processes import processes_of, wait_until
from lvm_pipeline_tests.adapters.running_services import LAUNCH, failure_of, kill_at_once, launch_run, wait_for_status

logger = logging.getLogger(__name__)


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
    assert "The built-in Postgres died and is started again" in titles


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
    assert "Stopped the services and the built-in Postgres." in done.stdout
    running.process.communicate(timeout=60)
    assert running.process.returncode == 0
    assert wait_until(lambda: not processes_of(home), seconds=60)
    assert running.run_status(run_id) == "CANCELED"
