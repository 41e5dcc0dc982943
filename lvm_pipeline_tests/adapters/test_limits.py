"""Limits of the machine end in one sentence, and all works again when the cause is gone: on a real server."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import psutil
import psycopg
import pytest
from sqlalchemy import create_engine

from lvm_pipeline.adapters import embedded_postgres, processes, shutdown
from lvm_pipeline.adapters.limits import limit_met
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.test_doctor import small_disk

TAKEN = "All connections of Postgres are taken; end some of the programs that use it"
HOLD = """
import sys, time, psycopg
with psycopg.connect(sys.argv[1]):
    print("connected", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def small_server(open_tmp_path_factory):
    """A home whose server has ten connections."""
    home = open_tmp_path_factory() / "home"
    directory = home / "postgres"
    server = embedded_postgres.ensure_running(directory)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET max_connections = 10")
        connection.execute("ALTER SYSTEM SET max_wal_senders = 0")
    embedded_postgres.stop(directory)
    yield Settings(home=home), embedded_postgres.ensure_running(directory)
    embedded_postgres.stop(directory)


@pytest.mark.slow
@pytest.mark.postgres
def test_taken_connections_are_one_sentence_in_commands_and_assets(small_server, lvm, monkeypatch):
    settings, server = small_server
    monkeypatch.setenv("LVM_HOME", str(settings.home))
    with ExitStack() as taken:
        for _ in range(10):
            taken.enter_context(psycopg.connect(server.url("postgres")))
        for command in ("env", "doctor"):
            code, _, errors = lvm(command)
            assert (code, TAKEN in " ".join(errors.split())) == (1, True), errors
        with pytest.raises(dg.Failure, match=TAKEN), lvm_errors_as_failures():
            create_engine(server.url("postgres").replace("postgresql", "postgresql+psycopg2")).connect()

    assert lvm("env")[0] == 0


@pytest.mark.slow
@pytest.mark.postgres
def test_lvm_down_names_the_command_that_uses_postgres_and_ends_it_when_forced(small_server, tmp_path):
    settings, server = small_server
    (tmp_path / "lvm").write_text(HOLD)
    command = [sys.executable, str(tmp_path / "lvm"), server.url("postgres")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout.readline() == "connected\n"
        with pytest.raises(LvmError) as refused:
            shutdown.stop_home(settings)
        assert re.search(rf"is used by python\S* lvm \.\.\. \(process {user.pid}.*lvm down --force", str(refused.value))
        assert server.password not in str(refused.value)
        assert user.poll() is None
        assert embedded_postgres.status(settings.postgres_dir).is_running

        assert shutdown.stop_home(settings, force=True) == ["the built-in Postgres"]
        user.wait(timeout=10)
    assert not embedded_postgres.status(settings.postgres_dir).is_running
    assert shutdown.stop_home(settings) == []
    embedded_postgres.ensure_running(settings.postgres_dir)


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["psql", "-U", "lvm", "lvm"], "psql"),
        (["/usr/bin/pg_dump", "lvm"], "pg_dump"),
        (["/venv/bin/python3", "/venv/bin/lvm", "train"], "lvm"),
        (["python3", "-m", "lvm_pipeline.defs.training_child"], "lvm_pipeline.defs.training_child"),
        (["python3", "-u", "-m", "lvm_pipeline.lineage.rank", "x"], "lvm_pipeline.lineage.rank"),
        (["python3", "-c", "import time", "lvm"], "python3"),
        ([], ""),
    ],
)
def test_a_program_is_known_by_what_it_runs(words, program):
    assert shutdown._program(words) == program


def test_the_arguments_of_another_program_are_not_shown():
    command = [sys.executable, "-c", "print(flush=True); input()", "--db-password", "hunter2", "lvm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        process = psutil.Process(child.pid)
        assert shutdown._name(process) == Path(sys.executable).name
        assert not shutdown._is_own(process)
        child.kill()


@pytest.mark.slow
@pytest.mark.postgres
def test_a_full_disk_below_postgres_is_one_sentence_and_all_works_when_there_is_room(root, open_tmp_path, lvm):
    articles = open_tmp_path / "articles.jsonl"
    lines = [
        {"title": f"Article {number}", "concepts": [f"Concept {n} of {number} says {n * number}." for n in range(40)]}
        for number in range(250)
    ]
    articles.write_text("".join(json.dumps(line) + "\n" for line in lines))
    disk = open_tmp_path / "disk"
    disk.mkdir(mode=0o755)
    with small_disk(disk, "400m"), ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.callback(embedded_postgres.stop, disk / "home" / "postgres")
        patch.setenv("LVM_HOME", str(disk / "home"))
        assert lvm("env")[0] == 0  # starts the server
        with (disk / "fill").open("wb") as file:
            room = shutil.disk_usage(disk).free - 8_000_000
            file.write(bytes(room))
        code, _, errors = lvm("ingest", articles)
        assert (code, "is full; free space and try again." in " ".join(errors.split())) == (1, True), errors
        assert "Traceback" not in errors

        (disk / "fill").unlink()
        assert lvm("ingest", articles)[0] == 0


def test_a_full_disk_is_one_sentence_wherever_it_is_met():
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert str(limit_met(full)) == "The disk that holds /data/x is full; free space and try again."
    error = RuntimeError("while writing")
    error.__cause__ = psycopg.OperationalError("could not extend file: No space left on device")
    assert str(limit_met(error)) == "The disk is full; free space and try again."
    assert limit_met(ValueError("No space left on device")) is None


def test_a_process_is_known_again_when_the_clock_was_set_back(monkeypatch):
    start = processes.start_of(os.getpid())
    plain = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: plain - 3600)  # what the kernel says after it

    assert processes.start_of(os.getpid()) == start
    assert not processes.has_ended(host=os.uname().nodename, pid=os.getpid(), start=start)
    assert processes.has_ended(host=os.uname().nodename, pid=os.getpid(), start="another")
    assert not processes.has_ended(host="elsewhere", pid=os.getpid(), start="another")


def test_a_process_that_ended_is_known_to_have_ended():
    with subprocess.Popen(["sleep", "60"]) as child:
        start = processes.start_of(child.pid)
        assert not processes.has_ended(host=os.uname().nodename, pid=child.pid, start=start)
        child.kill()
        while processes.start_of(child.pid) is not None:
            time.sleep(0.01)
        assert processes.has_ended(host=os.uname().nodename, pid=child.pid, start=start)


def test_processes_that_have_ended_meanwhile_are_no_error():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        process = psutil.Process(ended.pid)
        ended.wait()

    shutdown._end([process])

    assert shutdown._below(process) == set()
