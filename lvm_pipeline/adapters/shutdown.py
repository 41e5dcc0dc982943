"""Stop the services of a home, then its built-in Postgres; running work is interrupted only with `force`."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil
import psycopg

from lvm_pipeline.adapters import dagster_api, databases, embedded_postgres, processes, services
from lvm_pipeline.adapters.loopback import LOOPBACK
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

STOP_SECONDS = 120
CLIENTS = (
    "SELECT client_port FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
    "AND client_port IS NOT NULL"
)
OWN_PROGRAMS = ("lvm", "lvm_pipeline")  # they end in order when they are asked to


def stop_home(settings: Settings, *, force: bool = False) -> list[str]:
    """Stop the services and the built-in Postgres of a home; return what was stopped.

    Args:
        force: Cancel Dagster runs that are under way, and end commands that use Postgres: a training closes its run
            and can be resumed.

    Raises:
        LvmError: If a run or a command is under way, or the services do not stop.
    """
    served_by = services.serving_process(settings)
    if not force:
        _refuse_while_busy(settings, served_by)
    stopped = []
    was_running = embedded_postgres.status(settings.postgres_dir).is_running
    if served_by is not None:
        _end([served_by])
        stopped.append("the services")
    if force:
        _end([each for each in _commands(settings) if _is_own(each)])
    if embedded_postgres.stop(settings.postgres_dir) or was_running:
        stopped.append("the built-in Postgres")
    return stopped


def _refuse_while_busy(settings: Settings, served_by: psutil.Process | None) -> None:
    if served_by is not None:
        storage_url = databases.dagster_url(settings)
        if number := len(dagster_api.code_server_runs(storage_url)):
            runs = "A Dagster run is" if number == 1 else f"{number} Dagster runs are"
            raise LvmError(f"{runs} under way; wait for the end, or cancel with `lvm down --force`.")
    if commands := _commands(settings, beside=served_by):
        named = ", ".join(f"{_name(each)} (process {each.pid})" for each in commands)
        raise LvmError(f"The built-in Postgres is used by {named}; wait, or end it with `lvm down --force`.")


def _commands(settings: Settings, *, beside: psutil.Process | None = None) -> list[psutil.Process]:
    """Return the processes with a connection to the embedded server, but this one and those below `beside`."""
    if not embedded_postgres.status(settings.postgres_dir).is_running:
        return []
    url = embedded_postgres.ensure_running(settings.postgres_dir).url("postgres")
    with psycopg.connect(url, connect_timeout=databases.CONNECT_SECONDS) as connection:
        ports = {row[0] for row in connection.execute(CLIENTS)}
    ignored = {os.getpid()}
    if beside is not None:
        ignored |= {beside.pid, *_below(beside)}
    pids = {
        each.pid
        for each in psutil.net_connections("tcp4")
        if each.laddr and each.laddr.ip == LOOPBACK and each.laddr.port in ports and each.pid not in (None, *ignored)
    }
    found = []
    for pid in sorted(pid for pid in pids if pid is not None):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            found.append(psutil.Process(pid))
    return found


def _below(process: psutil.Process) -> set[int]:
    with suppress(psutil.NoSuchProcess):
        return {child.pid for child in process.children(recursive=True)}
    return set()


def _end(asked: Sequence[psutil.Process]) -> None:
    """Ask processes to end, and wait until they have."""
    starts = {each.pid: processes.start_of(each.pid) for each in asked}
    for each in asked:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for pid, start in starts.items():
        while start is not None and processes.start_of(pid) == start:
            if time.monotonic() > deadline:
                raise LvmError(f"Process {pid} has not ended in {STOP_SECONDS} s; end it and try again.")
            time.sleep(0.1)


def _is_own(process: psutil.Process) -> bool:
    return _program(_words(process)).split(".")[0] in OWN_PROGRAMS


def _name(process: psutil.Process) -> str:
    """Return what to call a process: the first words of our own commands, without folders, or the program's name.

    The arguments of other programs may contain a password.
    """
    words = _words(process)
    if not _is_own(process):
        return _program(words) or "a program"
    shown = [word.rpartition("/")[2] if "://" not in word else "..." for word in words]
    return " ".join(" ".join(shown).split())[:60]


def _program(words: Sequence[str]) -> str:
    """Return the name of a program, or of the script or module that Python runs."""
    beginning = [word.rpartition("/")[2] for word in words if word != "-u"][:3]  # torchrun adds -u
    program, *arguments = beginning or [""]
    if not program.startswith("python") or not arguments:
        return program
    if arguments[0] == "-m":
        return arguments[-1]
    return program if arguments[0].startswith("-") else arguments[0]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
