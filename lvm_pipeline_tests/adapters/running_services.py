"""The services of a home with small definitions, in processes of their own, and what runs in them."""

import os
import subprocess
import sys
import time

import psycopg

from lvm_pipeline.adapters import dagster_api, databases, services
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.settings import CHECKOUT_DIR, Settings
from lvm_pipeline_tests.adapters.processes import wait_until

WITH_SMALL_DEFINITIONS = (sys.executable, "-m", "lvm_pipeline_tests.adapters.run_services")
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


def kill_at_once(processes):
    """Kill processes as the kernel does when memory runs out: none sees another one die and says a last word."""
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()


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
