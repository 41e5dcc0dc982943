"""Where the built-in Postgres was started, so that two machines or containers never run it on the same files.

A pid means nothing on another machine or in another container. So a server also holds a lock on `server.lock`, which
its processes inherit and the kernel releases when the last of them has ended. The file contains where the server was
started. Some network disks do not forward locks, so another machine is refused even if the lock is free.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lvm_pipeline.adapters.postgres_files import ServerFiles
from lvm_pipeline.adapters.processes import BOOT_ID
from lvm_pipeline.errors import LvmError

LOCK_FILE = "server.lock"
MACHINE_ID = Path("/etc/machine-id")
PID_NAMESPACE = Path("/proc/self/ns/pid")
ENDING_SECONDS = 10  # in which the processes of a killed server end


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine or container; what the system does not tell is empty."""

    name: str
    boot_id: str = ""  # another after each start of the machine
    machine_id: str = ""  # the same after it was renamed
    pid_namespace: str = ""  # a container has one of its own

    def shares_pids_with(self, other: "Host") -> bool:
        return self == other or (self.shares_kernel_with(other) and self.pid_namespace == other.pid_namespace)

    def shares_kernel_with(self, other: "Host") -> bool:
        return self.boot_id != "" and self.boot_id == other.boot_id

    def is_same_machine(self, other: "Host") -> bool:
        return self.name == other.name or self.machine_id == other.machine_id != ""


def this_host() -> Host:
    namespace = str(PID_NAMESPACE.readlink()) if PID_NAMESPACE.is_symlink() else ""
    return Host(
        name=socket.gethostname(),
        boot_id=_text_of(BOOT_ID),
        machine_id=_text_of(MACHINE_ID),
        pid_namespace=namespace,
    )


def refuse_other_host(files: ServerFiles) -> None:
    """Refuse files whose server may be running where its pid cannot be seen.

    Raises:
        LvmError: If it may; contains where the server was started and what to do.
    """
    pid_path, started_on, here = files.data_dir / "postmaster.pid", _started_on(files), this_host()
    if not pid_path.exists() or started_on is None or started_on.shares_pids_with(here):
        return
    if not _is_locked(files) and (started_on.shares_kernel_with(here) or started_on.is_same_machine(here)):
        return  # it was killed, with its container or its machine
    raise LvmError(
        f"The built-in Postgres in {files.folder} was started on {started_on.name}, in another container or machine; "
        f"run `lvm down` there, or if that machine is gone, delete {pid_path}. Other machines need "
        "LVM_MLFLOW_TRACKING_URI."
    )


@contextmanager
def server_lock(files: ServerFiles) -> Iterator[int]:
    """Lock the files and record this host; yield the file descriptor that the server has to inherit.

    Raises:
        LvmError: If processes of an earlier server do not end.
    """
    descriptor = _open(files)
    try:
        deadline = time.monotonic() + ENDING_SECONDS
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise LvmError(f"An earlier Postgres in {files.folder} is still running; end it and try again.")
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(this_host())).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)  # the server's processes keep the lock


def _started_on(files: ServerFiles) -> Host | None:
    try:
        return Host(**json.loads((files.folder / LOCK_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_locked(files: ServerFiles) -> bool:
    descriptor = _open(files)
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _open(files: ServerFiles) -> int:
    return os.open(files.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
