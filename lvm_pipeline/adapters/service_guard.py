"""Clean up after the process that runs the services, also if it was killed.

    python -m lvm_pipeline.adapters.service_guard [POSTGRES_DIR]

The guard reads process-group ids, one per line (with a minus: no longer), from a pipe that its parent keeps open. When
the pipe closes, it terminates the groups, kills what remains after a moment, and stops the built-in Postgres of
POSTGRES_DIR unless another command is using it. POSTGRES_DIR is passed only if the parent started the server.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psycopg

from lvm_pipeline.adapters import embedded_postgres

GRACE_SECONDS = 5
OTHER_CLIENTS = (
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


def main(arguments: list[str]) -> None:
    """Wait until the pipe on standard input is closed, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:  # -17: group 17 was ended, and its number may be another one's by now
        number = int(line)
        groups.discard(-number) if number < 0 else groups.add(number)
    end_groups(groups, grace_seconds=GRACE_SECONDS)
    for directory in arguments:
        stop_unless_used(Path(directory))


def end_groups(groups: Iterable[int], *, grace_seconds: float) -> None:
    """Terminate process groups, wait, and kill what remains."""
    deadline = time.monotonic() + grace_seconds
    remaining = [group for group in groups if _signal_group(group, signal.SIGTERM)]
    while remaining and time.monotonic() < deadline:
        time.sleep(0.1)
        remaining = [group for group in remaining if _signal_group(group, 0)]
    for group in remaining:
        _signal_group(group, signal.SIGKILL)


def stop_unless_used(directory: Path, *, patience_seconds: float = 5) -> bool:
    """Stop the built-in Postgres once no client is connected; return whether it was stopped."""
    if not embedded_postgres.status(directory).is_running:
        return False
    url = embedded_postgres.ensure_running(directory).url("postgres")
    deadline = time.monotonic() + patience_seconds
    with psycopg.connect(url, autocommit=True) as connection:
        while (connection.execute(OTHER_CLIENTS).fetchone() or (0,))[0] > 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
    return embedded_postgres.stop(directory)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a group (0: none) and return whether the group exists."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
