"""The built-in Postgres: one server for each LVM_HOME, from the binaries in a Python wheel.

It is started when a command needs it, listens on loopback only, has a generated password, keeps running after the
command and is stopped by `lvm down`. It runs on one machine at a time (see `postgres_host`). `LVM_HOME/postgres`
contains `server.json` (folder of the files, port, password; readable by its owner only) and, if the server's user can
access it, the files themselves (see `postgres_files`).

A cluster is created under another name and renamed when complete, so a folder `data` is always a complete one. Changes
of state are made under a file lock, so two commands may start the server at once.
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
from typing import NamedTuple

import psutil
from filelock import FileLock, Timeout
from psycopg.pq import PGconn, Ping

from lvm_pipeline.adapters.loopback import LOOPBACK, free_port, is_free
from lvm_pipeline.adapters.postgres_files import (
    OUTSIDE_DIRS,
    STATE_FILE,
    ServerFiles,
    claim,
    give_back,
    give_to,
    other_home,
    reachable_binaries,
    server_files,
)
from lvm_pipeline.adapters.postgres_host import refuse_other_host, server_lock
from lvm_pipeline.errors import LvmError, ServiceError
from lvm_pipeline.files import staged_dir, staged_file

logger = logging.getLogger(__name__)

USER = "lvm"
LOCK_SECONDS = 120
START_SECONDS = 120
START_ATTEMPTS = 8
MAX_LOG_BYTES = 10_000_000
# A start is retried if the port was just taken, or the children of a killed server are still ending.
TRANSIENT = ("could not create any TCP/IP sockets", "still in use", "Address already")
CLUSTER_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "200",  # Dagster's processes and MLflow's workers each keep a pool
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server, as stored in `server.json`; `folder` is relative to that file, or absolute if it is elsewhere."""

    folder: str
    port: int
    password: str = field(repr=False)

    def url(self, database: str) -> str:
        """Return the URL of a database. It contains the password: never print it."""
        return f"postgresql://{USER}:{self.password}@{LOOPBACK}:{self.port}/{database}"


class ServerStatus(NamedTuple):
    """State of a server; `folder` is None if it was never started, `pid` if it is not running."""

    folder: Path | None = None
    pid: int | None = None

    @property
    def is_running(self) -> bool:
        return self.pid is not None


class _Postmaster(NamedTuple):
    """Content of the `postmaster.pid` of a live server."""

    pid: int
    port: int
    is_ready: bool


def ensure_running(directory: Path, *, outside_dirs: Sequence[Path] = OUTSIDE_DIRS) -> Server:
    """Start the server of `directory` if it is not running, and return it; the first time, create its cluster.

    If the server's user cannot access `directory`, root puts the files into the first usable of `outside_dirs`.

    Raises:
        LvmError: If it cannot be started; contains the server's error message.
    """
    with _locked(directory):
        server = _read_state(directory)
        recorded_folder = directory / server.folder if server else None
        files = server_files(directory, recorded_folder=recorded_folder, outside_dirs=outside_dirs)
        if server is not None and recorded_folder is not None and files.folder != recorded_folder.resolve():
            server = _copy_cluster(directory, replace(files, folder=recorded_folder), files, server)
        claim(files, directory)
        postmaster = _wait_until_settled(files)
        if postmaster is None:
            refuse_other_host(files)
        if server is None or not _is_cluster(files.data_dir):
            server = _create_cluster(directory, files, postmaster)
            postmaster = None
        port = _start(files, preferred_port=server.port) if postmaster is None else postmaster.port
        server = replace(server, port=port)
        _write_state(directory, server)
        return server


def stop(directory: Path) -> bool:
    """Stop the server of `directory`; True if it was running. Raises LvmError if it does not stop."""
    if not directory.exists():
        return False
    with _locked(directory):
        files = _recorded_files(directory)
        if files is None or _find_postmaster(files) is None:
            return False
        _stop(files)
        return True


def status(directory: Path) -> ServerStatus:
    """Return whether the server of `directory` is running, and its folder; starts nothing."""
    files = _recorded_files(directory)
    if files is None:
        return ServerStatus()
    postmaster = _find_postmaster(files)
    return ServerStatus(folder=files.folder, pid=postmaster.pid if postmaster and postmaster.is_ready else None)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        with _explain_permissions():
            directory.mkdir(parents=True, exist_ok=True)
            with FileLock(directory / "lock", timeout=LOCK_SECONDS):
                yield
    except Timeout:
        raise LvmError(
            f"Another command has held the Postgres in {directory} for {LOCK_SECONDS} s; wait for it or end it."
        ) from None


@contextmanager
def _explain_permissions() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise LvmError(
            f"{error.filename} belongs to another user; run as that user or set LVM_HOME to a folder of your own."
        ) from None


def _read_state(directory: Path) -> Server | None:
    """Return the recorded server, None if there is none or it is damaged."""
    path = directory / STATE_FILE
    try:
        return Server(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        logger.warning("%s cannot be read; a new server is started.", path)
        return None


def _write_state(directory: Path, server: Server) -> None:
    if server == _read_state(directory):
        return
    with staged_file(directory / STATE_FILE) as staged:
        staged.touch(mode=0o600)
        staged.write_text(json.dumps(asdict(server), indent=2) + "\n", encoding="utf-8")


def _recorded_files(directory: Path) -> ServerFiles | None:
    with _explain_permissions():
        server = _read_state(directory)
    if server is None or not (directory / server.folder).exists():
        return None
    if other_home(directory / server.folder, directory) is not None:
        return None  # this home is a copy, whose server was not started yet
    return server_files(directory, recorded_folder=directory / server.folder, outside_dirs=())


def _is_cluster(data_dir: Path) -> bool:
    return (data_dir / "PG_VERSION").is_file() and (data_dir / "global" / "pg_control").is_file()


def _find_postmaster(files: ServerFiles) -> _Postmaster | None:
    """Return the live server of these files, None if there is none.

    The pid file of a killed server is not removed, and its pid may belong to another process by now, so the process
    must have this data folder on its command line.
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
    """Wait while a live server starts, recovers or stops; return it once it answers, None once it is gone."""
    deadline = time.monotonic() + START_SECONDS
    while (postmaster := _find_postmaster(files)) is not None and not (postmaster.is_ready and _answers(postmaster)):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"The built-in Postgres has been starting for {START_SECONDS} s (log: {files.log_path})."
            )
        time.sleep(0.1)
    return postmaster


def _answers(postmaster: _Postmaster) -> bool:
    """Whether the server accepts connections; a server killed a moment ago is still listed as a process."""
    return PGconn.ping(f"host={LOOPBACK} port={postmaster.port} connect_timeout=2".encode()) == Ping.OK


def _create_cluster(directory: Path, files: ServerFiles, postmaster: _Postmaster | None) -> Server:
    """Run initdb. A folder `data` whose password is unknown, or that is no complete cluster, is set aside."""
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
    server = Server(folder=folder, port=free_port(), password=secrets.token_urlsafe(24))
    partial = files.folder / f"data.partial-{uuid.uuid4().hex}"
    password_path = files.folder / f".{partial.name}.password"
    try:
        partial.mkdir(mode=0o700)
        password_path.touch(mode=0o600)
        for path in (partial, password_path):
            give_to(path, files.account)
        password_path.write_text(server.password, encoding="utf-8")
        _initdb(files, partial, password_path)
        _write_state(directory, server)  # before renaming: a cluster without its password is useless
        partial.rename(files.data_dir)
    finally:
        password_path.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
    return server


def _copy_cluster(directory: Path, source: ServerFiles, files: ServerFiles, server: Server) -> Server:
    """Copy the cluster of another home, of which this one is a copy, and return the server.

    Raises:
        LvmError: If the other home's server is running.
    """
    if _find_postmaster(source) is not None:
        raise LvmError(
            f"{directory.parent} is a copy of a home whose Postgres is running; run `lvm down` there and try again."
        )
    with staged_dir(files.data_dir) as staged:
        shutil.copytree(source.data_dir, staged, symlinks=True, dirs_exist_ok=True)
    server = replace(server, folder=str(files.folder))
    _write_state(directory, server)
    return server


def _initdb(files: ServerFiles, data_dir: Path, password_path: Path) -> None:
    options = [f"--set={name}={value}" for name, value in CLUSTER_SETTINGS.items()]
    options += [f"--username={USER}", f"--pwfile={password_path}", "--auth=scram-sha-256", "--encoding=UTF8"]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    code, output = _run(files, "initdb", "-D", str(data_dir), *options)
    if code != 0:
        raise LvmError(f"The built-in Postgres cannot create its data in {files.folder}: {_last_line(output)}")


def _start(files: ServerFiles, *, preferred_port: int) -> int:
    """Start the server and return its port, a free one if the preferred port is taken."""
    port, reason, output = preferred_port, "", ""
    give_back(files)
    for attempt in range(START_ATTEMPTS):
        if not is_free(port):
            port = free_port()
        log_start = _prepare_log(files)
        with server_lock(files) as lock:
            if _find_postmaster(files) is None:  # Postgres would mistake any process of that pid for a server
                (files.data_dir / "postmaster.pid").unlink(missing_ok=True)
            code, output = _run(
                files, "pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", str(files.data_dir),
                "-l", str(files.log_path), "-o", f"-p {port}", inherited=[lock],
            )  # fmt: skip
        postmaster = _find_postmaster(files)
        if code == 0 and postmaster is not None:
            return postmaster.port
        reason = _log_tail(files.log_path, log_start)
        if not any(words in reason for words in TRANSIENT):
            break
        time.sleep(0.2 * (attempt + 1))
    raise ServiceError(f"The built-in Postgres does not start: {reason or _last_line(output)} (log: {files.log_path}).")


def _stop(files: ServerFiles) -> None:
    for mode in ("fast", "immediate"):
        code, output = _run(files, "pg_ctl", "stop", "-w", "-t", "60", "-m", mode, "-D", str(files.data_dir))
        if code == 0 or _find_postmaster(files) is None:
            return
    raise LvmError(f"The built-in Postgres does not stop: {_last_line(output)} (log: {files.log_path}).")


def _run(files: ServerFiles, program: str, *arguments: str, inherited: Sequence[int] = ()) -> tuple[int, str]:
    """Run a program of Postgres as the server's user, in a clean environment; return exit code and output.

    It inherits the file descriptors `inherited`.

    Output goes to a file, because a server started by pg_ctl would keep a pipe open.

    Raises:
        LvmError: If the program cannot be run.
    """
    command = [str(reachable_binaries(files) / program), *arguments]
    options = files.account.process_options
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=files.folder, umask=0o077,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, start_new_session=True, check=False,
                pass_fds=inherited, **options,
            )  # fmt: skip
        except OSError as error:
            raise LvmError(f"{command[0]} cannot be run as {files.account.name}: {error.strerror}.") from None
        output.seek(0)
        return done.returncode, output.read()


def _prepare_log(files: ServerFiles) -> int:
    """Make the log writable for the server's user and return its size."""
    log_path = files.log_path
    if log_path.exists() and log_path.stat().st_size > MAX_LOG_BYTES:
        log_path.replace(log_path.with_suffix(".log.1"))
    log_path.touch(mode=0o600)
    give_to(log_path, files.account)
    return log_path.stat().st_size


def _log_tail(log_path: Path, start: int) -> str:
    """Return the last FATAL message in the log after `start`, or else the last line."""
    with log_path.open(encoding="utf-8", errors="replace") as log:
        log.seek(start)
        lines = log.read().splitlines()
    fatal = [line.split("FATAL:", 1)[1].strip() for line in lines if "FATAL:" in line]
    return fatal[-1] if fatal else "".join(lines[-1:])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
