"""Promises of what is asked of a Dagster web server: an error is an error, not a server that is still starting."""

import json
import socket
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lvm_pipeline.adapters import dagster_api, service_processes
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import load_settings


@contextmanager
def web_server(*, status=200, answer):
    """A server on loopback that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def unfinished_runs(monkeypatch):
    """Two runs of a code server in Dagster's storage."""

    class Connection:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def execute(self, query):
            return [("run-1",), ("run-2",)]

    monkeypatch.setattr(dagster_api.psycopg, "connect", lambda url: Connection())


@pytest.mark.postgres
def test_there_is_no_run_before_dagster_has_made_its_tables(postgres_url):
    assert dagster_api.code_server_runs(postgres_url) == []


def terminated(*results):
    return {"data": {"terminateRuns": {"__typename": "TerminateRunsResult", "terminateRunResults": results}}}


def test_a_web_server_that_fails_is_an_error_at_once():
    with web_server(status=500, answer="no such table: runs") as address:
        with pytest.raises(LvmError, match=r"HTTP status 500.*no such table: runs"):
            dagster_api.has_loaded_definitions(address)
        with pytest.raises(LvmError, match="HTTP status 500"):
            dagster_api.has_healthy_daemons(address)


def test_a_query_that_fails_is_an_error_at_once():
    answer = {"data": None, "errors": [{"message": "Cannot query field 'daemonHealth'"}]}
    with web_server(answer=answer) as address, pytest.raises(LvmError, match="Cannot query field 'daemonHealth'"):
        dagster_api.has_healthy_daemons(address)


def test_a_web_server_that_is_starting_is_not_ready():
    assert not dagster_api.has_loaded_definitions(f"http://127.0.0.1:{free_port()}")
    with web_server(status=503, answer="starting") as address:
        assert not dagster_api.has_loaded_definitions(address)


@contextmanager
def silent_server():
    """A server on loopback that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def services_that_wait_for(tmp_path, is_ready):
    process = subprocess.Popen(["sleep", "60"])
    service = service_processes.Service(name="dagster-webserver", command=(), is_ready=is_ready)
    running = service_processes.Running(service, process, tmp_path / "web.log", {})
    return service_processes.Services(settings=load_settings(), guard=process, running=[running]), process


def test_a_web_server_that_hangs_is_an_error_after_some_tries(tmp_path, monkeypatch):
    monkeypatch.setattr(dagster_api, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(service_processes, "MAX_TIMEOUTS", 3)
    monkeypatch.setattr(service_processes, "READY_SECONDS", 20)
    tries = []
    with silent_server() as address:

        def is_ready():
            tries.append(address)
            return dagster_api.has_loaded_definitions(address)

        waiting, process = services_that_wait_for(tmp_path, is_ready)
        try:
            with pytest.raises(LvmError, match=r"dagster-webserver hangs; see .*web\.log"):
                waiting.wait_until_ready()
        finally:
            process.kill()
            process.wait()
    assert len(tries) == 3


def test_a_web_server_that_is_slow_now_and_then_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(service_processes, "MAX_TIMEOUTS", 3)
    monkeypatch.setattr(service_processes, "POLL_SECONDS", 0)
    answers = [None, None, False, None, None, True]  # None: no answer in time

    def is_ready():
        answer = answers.pop(0)
        if answer is None:
            raise dagster_api.NoAnswerError("too slow")
        return answer

    waiting, process = services_that_wait_for(tmp_path, is_ready)
    try:
        waiting.wait_until_ready()
    finally:
        process.kill()
        process.wait()
    assert answers == []


def test_cancelled_runs_are_counted(unfinished_runs):
    success = {"__typename": "TerminateRunSuccess"}
    with web_server(answer=terminated(success, success)) as address:
        assert dagster_api.cancel_code_server_runs(address, storage_url="") == 2


@pytest.mark.parametrize(
    "answer",
    [
        terminated({"__typename": "TerminateRunSuccess"}, {"__typename": "TerminateRunFailure", "message": "is stuck"}),
        {"data": {"terminateRuns": {"__typename": "PythonError", "message": "is stuck"}}},
        {"data": None, "errors": [{"message": "is stuck"}]},
    ],
)
def test_a_run_that_cannot_be_cancelled_is_an_error(unfinished_runs, answer):
    with web_server(answer=answer) as address, pytest.raises(LvmError, match="is stuck"):
        dagster_api.cancel_code_server_runs(address, storage_url="")


def test_nothing_is_cancelled_without_a_web_server(unfinished_runs):
    with pytest.raises(LvmError, match="does not answer"):
        dagster_api.cancel_code_server_runs(f"http://127.0.0.1:{free_port()}", storage_url="")
