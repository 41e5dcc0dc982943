"""The embedded Postgres: one server for each LVM_HOME, from binaries that a Python wheel brings.

It is started when a command needs it, listens on loopback only, asks for a generated password, outlives the command
and is stopped by `lvm down`. `LVM_HOME/postgres` holds `server.json` (where the files are, port, password; for its
owner's eyes only) and, where the server's user can go there, the files themselves (see `postgres_files`).

A cluster is made under another name and renamed when complete, so a folder `data` is always a whole one. Every change
of state happens under a file lock, so two commands may start the server at once.
"""

import json
import logging
import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from psycopg.pq import PGconn, Ping

from lvm_pipeline.adapters.loopback import LOOPBACK, free_port, is_free
from lvm_pipeline.adapters.postgres_files import (
    OUTSIDE_DIRS,
    ServerFiles,
    give_to,
    reachable_binaries,
    server_files,
)
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_file

logger = logging.getLogger(__name__)

USER = "lvm"
LOCK_SECONDS = 120
START_SECONDS = 120
START_ATTEMPTS = 8
MAX_LOG_BYTES = 10_000_000
CLUSTER_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "200",  # Dagster's processes and MLflow's workers each keep a pool
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server and how to reach it; its password is in no representation."""

    port: int
    password: str = field(repr=False)
    host: str = LOOPBACK
    user: str = USER

    def url(self, database: str, *, driver: str | None = None) -> str:
        """Return the URL of a database, password included: never print it."""
        scheme = "postgresql" if driver is None else f"postgresql+{driver}"
        return f"{scheme}://{self.user}:{self.password}@{self.host}:{self.port}/{database}"


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """What can be said of a server without starting it."""

    is_running: bool
    folder: Path | None = None
    port: int | None = None
    pid: int | None = None


@dataclass(frozen=True, kw_only=True)
class _State:
    """Content of `server.json`; `folder` is relative to it, or absolute when the files are elsewhere."""

    folder: str
    port: int
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class _Postmaster:
    """What a live server wrote into its `postmaster.pid`."""

    pid: int
    port: int
    is_ready: bool


def ensure_running(directory: Path, *, outside_dirs: Sequence[Path] = OUTSIDE_DIRS) -> Server:
    """Start the server of `directory` if it does not run, making its cluster the first time.

    Args:
        directory: Folder in LVM_HOME, made if missing.
        outside_dirs: Where root puts the files when the server's user cannot enter `directory`.

    Returns:
        The server, ready for connections.

    Raises:
        LvmError: If it cannot be started; the sentence holds the server's own last words.
    """
    with _locked(directory):
        state = _read_state(directory)
        recorded_folder = directory / state.folder if state else None
        files = server_files(directory, recorded_folder=recorded_folder, outside_dirs=outside_dirs)
        postmaster = _wait_until_settled(files)
        if state is None or not _is_cluster(files.data_dir):
            state = _make_cluster(directory, files, postmaster)
            postmaster = None
        port = _start(files, preferred_port=state.port) if postmaster is None else postmaster.port
        state = replace(state, port=port)
        _write_state(directory, state)
        return Server(port=state.port, password=state.password)


def stop(directory: Path) -> bool:
    """Stop the server of `directory`; True if it was running.

    Raises:
        LvmError: If it does not stop.
    """
    if not directory.exists():
        return False
    with _locked(directory):
        files = _recorded_files(directory)
        if files is None or _find_postmaster(files) is None:
            return False
        _stop(files)
        return True


def status(directory: Path) -> ServerStatus:
    """Say whether the server of `directory` runs, and where; starts nothing."""
    files = _recorded_files(directory)
    if files is None:
        return ServerStatus(is_running=False)
    postmaster = _find_postmaster(files)
    if postmaster is None or not postmaster.is_ready:
        return ServerStatus(is_running=False, folder=files.folder)
    return ServerStatus(is_running=True, folder=files.folder, port=postmaster.port, pid=postmaster.pid)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / "lock", timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise LvmError(
            f"Another command has held the Postgres in {directory} for {LOCK_SECONDS} s; wait for it or end it."
        ) from None
    except PermissionError as error:
        raise LvmError(
            f"{error.filename} belongs to another user; run as that user or set LVM_HOME to a folder of your own."
        ) from None


def _state_path(directory: Path) -> Path:
    return directory / "server.json"


def _read_state(directory: Path) -> _State | None:
    """Return what was recorded, None where nothing (usable) is."""
    try:
        return _State(**json.loads(_state_path(directory).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        logger.warning("%s cannot be read; the server starts anew.", _state_path(directory))
        return None


def _write_state(directory: Path, state: _State) -> None:
    if state == _read_state(directory):
        return
    with staged_file(_state_path(directory)) as staged:
        staged.touch(mode=0o600)
        staged.write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")


def _recorded_files(directory: Path) -> ServerFiles | None:
    try:
        state = _read_state(directory)
    except PermissionError as error:
        raise LvmError(f"{error.filename} belongs to another user; run as that user.") from None
    if state is None or not (directory / state.folder).exists():
        return None
    return server_files(directory, recorded_folder=directory / state.folder, outside_dirs=())


def _is_cluster(data_dir: Path) -> bool:
    return (data_dir / "PG_VERSION").is_file() and (data_dir / "global" / "pg_control").is_file()


def _find_postmaster(files: ServerFiles) -> _Postmaster | None:
    """Return the live server of these files, None where there is none.

    A pid file outlives a killed server, and its number may by now belong to another process: the process must
    name this data folder on its command line.
    """
    try:
        lines = (files.data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid, port = int(lines[0]), int(lines[3])
        is_ours = str(files.data_dir) in psutil.Process(pid).cmdline()
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    is_ready = len(lines) > 7 and lines[7].strip() == "ready"
    return _Postmaster(pid=pid, port=port, is_ready=is_ready) if is_ours else None


def _wait_until_settled(files: ServerFiles) -> _Postmaster | None:
    """Wait while a live server starts, recovers or ends; return it once it answers, None once it is gone."""
    deadline = time.monotonic() + START_SECONDS
    while (postmaster := _find_postmaster(files)) is not None and not (postmaster.is_ready and _answers(postmaster)):
        if time.monotonic() > deadline:
            raise LvmError(f"The embedded Postgres has been starting for {START_SECONDS} s (log: {files.log_path}).")
        time.sleep(0.1)
    return postmaster


def _answers(postmaster: _Postmaster) -> bool:
    """Whether the server takes connections: one killed a moment ago is still listed as a process."""
    return PGconn.ping(f"host={LOOPBACK} port={postmaster.port} connect_timeout=2".encode()) == Ping.OK


def _make_cluster(directory: Path, files: ServerFiles, postmaster: _Postmaster | None) -> _State:
    """Run initdb; a folder `data` that nobody has the password of, or that is no whole cluster, is set aside."""
    if postmaster is not None:
        _stop(files)
    if files.data_dir.exists():
        aside = files.folder / "data.set-aside"
        shutil.rmtree(aside, ignore_errors=True)
        files.data_dir.rename(aside)
        logger.warning("%s was not a usable cluster: moved to %s, starting with an empty one.", files.data_dir, aside)
    for half_finished in files.folder.glob("data.partial-*"):
        shutil.rmtree(half_finished, ignore_errors=True)
    folder = "." if files.folder == directory.resolve() else str(files.folder)
    state = _State(folder=folder, port=free_port(), password=secrets.token_urlsafe(24))
    partial = files.folder / f"data.partial-{uuid.uuid4().hex}"
    password_path = files.folder / f".{partial.name}.password"
    try:
        for path in (partial, password_path):
            path.mkdir(mode=0o700) if path == partial else path.touch(mode=0o600)
            give_to(path, files.account)
        password_path.write_text(state.password, encoding="utf-8")
        _initdb(files, partial, password_path)
        _write_state(directory, state)  # before the cluster gets its name: a cluster without its password is useless
        partial.rename(files.data_dir)
    finally:
        password_path.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
    return state


def _initdb(files: ServerFiles, data_dir: Path, password_path: Path) -> None:
    options = [f"--set={name}={value}" for name, value in CLUSTER_SETTINGS.items()]
    options += [f"--username={USER}", f"--pwfile={password_path}", "--auth=scram-sha-256", "--encoding=UTF8"]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    code, output = _run(files, "initdb", "-D", str(data_dir), *options)
    if code != 0:
        raise LvmError(f"The embedded Postgres could not make its data folder in {files.folder}: {_last_line(output)}")


def _start(files: ServerFiles, *, preferred_port: int) -> int:
    """Start the server and return its port; a port taken by another program is exchanged for a free one."""
    port, reason, output = preferred_port, "", ""
    for attempt in range(START_ATTEMPTS):
        _remove_stale_pid_file(files)
        if not is_free(port):
            port = free_port()
        log_start = _prepare_log(files)
        code, output = _run(
            files, "pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", str(files.data_dir),
            "-l", str(files.log_path), "-o", f"-p {port}",
        )  # fmt: skip
        postmaster = _find_postmaster(files)
        if code == 0 and postmaster is not None:
            return postmaster.port
        reason = _log_tail(files.log_path, log_start)
        if not _may_pass(reason):
            break
        time.sleep(0.2 * (attempt + 1))
    raise LvmError(f"The embedded Postgres does not start: {reason or _last_line(output)} (log: {files.log_path}).")


def _stop(files: ServerFiles) -> None:
    for mode in ("fast", "immediate"):
        code, output = _run(files, "pg_ctl", "stop", "-w", "-t", "60", "-m", mode, "-D", str(files.data_dir))
        if code == 0 or _find_postmaster(files) is None:
            return
    raise LvmError(f"The embedded Postgres does not stop: {_last_line(output)} (log: {files.log_path}).")


def _run(files: ServerFiles, program: str, *arguments: str) -> tuple[int, str]:
    """Run one of Postgres' programs as the server's user, with an environment that holds nothing of ours.

    Output goes through a file: a server started by pg_ctl could hold a pipe open for ever.

    Raises:
        LvmError: If the program cannot be run at all.
    """
    command = [str(reachable_binaries(files) / program), *arguments]
    options = files.account.process_options
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=files.folder, umask=0o077,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, start_new_session=True, check=False, **options,
            )  # fmt: skip
        except OSError as error:
            raise LvmError(f"{command[0]} cannot be run as {files.account.name}: {error.strerror}.") from None
        output.seek(0)
        return done.returncode, output.read()


def _remove_stale_pid_file(files: ServerFiles) -> None:
    """Remove the pid file of a server that is gone; Postgres would take any process of that number for it."""
    if _find_postmaster(files) is None:
        (files.data_dir / "postmaster.pid").unlink(missing_ok=True)


def _may_pass(reason: str) -> bool:
    """Whether a failed start is worth another: the port was just taken, or a killed server's children still end."""
    return any(words in reason for words in ("could not create any TCP/IP sockets", "still in use", "Address already"))


def _prepare_log(files: ServerFiles) -> int:
    """Make the log writable for the server's user and return its present size."""
    log_path = files.log_path
    if log_path.exists() and log_path.stat().st_size > MAX_LOG_BYTES:
        log_path.replace(log_path.with_suffix(".log.1"))
    log_path.touch(mode=0o600)
    give_to(log_path, files.account)
    return log_path.stat().st_size


def _log_tail(log_path: Path, start: int) -> str:
    """Return the fatal message written to the log after `start`, or else the last line."""
    with log_path.open(encoding="utf-8", errors="replace") as log:
        log.seek(start)
        lines = log.read().splitlines()
    fatal = [line.split("FATAL:", 1)[1].strip() for line in lines if "FATAL:" in line]
    return fatal[-1] if fatal else _last_line("\n".join(lines))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
