"""Identify a process by its pid and its start, since pids are reused."""

import socket
from contextlib import suppress
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def start_of(pid: int) -> str | None:
    """Return when a process started, None if it has ended.

    On Linux this is its boot and the clock ticks since then. A time of day would change with the system's clock, and a
    living process would seem to be another.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError):
            ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
            return f"{BOOT_ID.read_text(encoding='utf-8').strip()}:{ticks}"
        return str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def has_ended(*, host: str, pid: int, start: object) -> bool:
    """Whether a process has ended; False for one on another host."""
    return host == socket.gethostname() and start_of(pid) != start
