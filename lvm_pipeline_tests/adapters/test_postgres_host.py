"""The built-in Postgres never runs twice on the same files, whatever machine or container starts it."""

import json
import os
import signal
import subprocess
import sys

import psutil
import psycopg
import pytest

from lvm_pipeline.adapters import embedded_postgres
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.adapters.processes import wait_until

pytestmark = pytest.mark.postgres


def kill(directory):
    pid = embedded_postgres.status(directory).pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", seconds=30)


def move_to(directory, **changes):
    """Make it look as if the server had been started elsewhere."""
    path = directory / "server.lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def start_in(container, directory, *, then="pass"):
    code = f"""
from pathlib import Path
from lvm_pipeline.adapters.embedded_postgres import ensure_running
from lvm_pipeline.errors import LvmError
try:
    ensure_running(Path({str(directory)!r}))
    {then}
    print("started")
except LvmError as error:
    print(error)
"""
    command = [*container, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


def test_a_container_does_not_start_a_second_server_on_the_files_of_a_running_one(directory, in_container):
    server = embedded_postgres.ensure_running(directory)

    answer = start_in(in_container, directory)

    assert "was started on" in answer
    assert "run `lvm down` there" in answer
    assert f"delete {directory / 'data' / 'postmaster.pid'}" in answer
    with psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_that_was_killed_with_its_container_is_started_anywhere(directory, in_container):
    embedded_postgres.stop(directory)
    assert start_in(in_container, directory) == "started"
    assert (directory / "data" / "postmaster.pid").exists(), "nobody stopped it in order"

    assert start_in(in_container, directory) == "started"
    assert embedded_postgres.ensure_running(directory)


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"boot_id": "another"}, False),  # this machine, restarted
        ({"boot_id": "another", "name": "elsewhere", "machine_id": "another"}, True),
    ],
    ids=["restarted", "another machine"],
)
def test_after_a_crash_another_machine_is_refused_and_a_restarted_one_is_not(directory, changes, is_refused):
    kill(directory)
    move_to(directory, **changes)

    if is_refused:
        with pytest.raises(LvmError, match="was started on elsewhere"):
            embedded_postgres.ensure_running(directory)
        (directory / "data" / "postmaster.pid").unlink()
    assert embedded_postgres.ensure_running(directory)


def test_a_renamed_machine_is_the_same_one(directory, tmp_path, monkeypatch):
    machine_id = tmp_path / "machine-id"
    machine_id.write_text("0123\n")
    monkeypatch.setattr("lvm_pipeline.adapters.postgres_host.MACHINE_ID", machine_id)
    kill(directory)
    move_to(directory, boot_id="another", name="before", machine_id="0123")

    assert embedded_postgres.ensure_running(directory)


def test_after_a_clean_stop_any_machine_may_start_it(directory):
    embedded_postgres.stop(directory)
    move_to(directory, boot_id="another", name="elsewhere", machine_id="another")

    assert embedded_postgres.ensure_running(directory)


def test_processes_of_an_earlier_server_are_waited_for(directory, monkeypatch):
    monkeypatch.setattr("lvm_pipeline.adapters.postgres_host.ENDING_SECONDS", 0.1)
    pid_path = directory / "data" / "postmaster.pid"
    removed = pid_path.rename(directory / "removed.pid")  # what a user may do too early
    try:
        with pytest.raises(LvmError, match=r"An earlier Postgres in .* is still running"):
            embedded_postgres.ensure_running(directory)
    finally:
        removed.rename(pid_path)
