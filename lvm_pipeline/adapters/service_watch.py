"""Restart services that died, and the built-in Postgres, with growing pauses and a limited number of times."""

import logging
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field

from rich.console import Console

from lvm_pipeline.adapters import alerts, embedded_postgres
from lvm_pipeline.adapters.launcher import launched
from lvm_pipeline.adapters.messages.alert import LEVELS, Alert, Level
from lvm_pipeline.adapters.service_guard import GRACE_SECONDS, end_groups
from lvm_pipeline.adapters.service_processes import POLL_SECONDS, Running, Services
from lvm_pipeline.errors import LvmError, ServiceError
from lvm_pipeline.settings import Settings

logger = logging.getLogger(__name__)

MAX_RESTARTS = 5
WINDOW_SECONDS = 600.0
FIRST_PAUSE_SECONDS = 1.0
CODE_SERVER = "dagster-code"
POSTGRES = "The built-in Postgres"
LOST_RUNS = "lvm_pipeline.defs.lost_runs"
GIVEN_UP = "A service died too often, so all services are stopped"


@dataclass(kw_only=True)
class Restarts:
    """The deaths of each service in the last minutes, by a steady clock."""

    _times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def pause_after_death(self, name: str, *, clock: float) -> float | None:
        """Return the seconds to wait before a service is started again, None if it died too often."""
        recent = [time for time in self._times[name] if clock - time < WINDOW_SECONDS]
        self._times[name] = [*recent, clock]
        return None if len(recent) >= MAX_RESTARTS else FIRST_PAUSE_SECONDS * 2 ** len(recent)

    def is_first(self, name: str) -> bool:
        """Whether the last death of a service was the first in the last minutes."""
        return len(self._times[name]) == 1


def watch(services: Services, console: Console) -> None:
    """Restart services that died, until Ctrl-C.

    Raises:
        LvmError: If one dies too often.
    """
    watcher = _Watcher(services=services, console=console)
    try:
        while True:
            watcher.look()
            time.sleep(POLL_SECONDS)
    except LvmError as error:
        _report(services.settings, GIVEN_UP, str(error), level="failure")
        raise


class _Watcher:
    def __init__(self, *, services: Services, console: Console):
        self._services, self._console, self._restarts = services, console, Restarts()
        self._has_postgres = embedded_postgres.status(services.settings.postgres_dir).is_running

    def look(self) -> None:
        """Restart the services that are dead now."""
        if self._has_postgres:
            self._revive_postgres()
        for one in [one for one in self._services.running if one.process.poll() is not None]:
            self._revive(one)

    def _revive(self, one: Running) -> None:
        self._wait(one.service.name, f"exited with code {one.process.returncode}; see {one.log_path}")
        end_groups([one.process.pid], grace_seconds=GRACE_SECONDS)  # what is left of it would keep its port
        self._services.restart(one)
        if one.service.name == CODE_SERVER:
            self._fail_lost_runs()

    def _revive_postgres(self) -> None:
        directory = self._services.settings.postgres_dir
        server = embedded_postgres.status(directory)
        if server.folder is None or server.is_running:
            return
        self._wait(POSTGRES, f"stopped; see {server.folder / 'server.log'}")
        try:
            embedded_postgres.ensure_running(directory)
        except ServiceError as error:  # the next look tries again
            logger.warning("%s", error)
        else:
            self._fail_lost_runs()

    def _wait(self, name: str, what: str) -> None:
        """Report a death, the first of some minutes as an alert too, and wait.

        Raises:
            LvmError: If the service died too often.
        """
        pause = self._restarts.pause_after_death(name, clock=time.monotonic())
        if pause is None:
            often = f"{MAX_RESTARTS + 1} times in {WINDOW_SECONDS / 60:.0f} minutes"
            raise LvmError(f"{name} died {often} and is not started again; the last time it {what}.")
        self._console.print(f"{name} {what}. Starting it again.", highlight=False, markup=False, soft_wrap=True)
        if self._restarts.is_first(name):
            title = f"{name} died and is started again"
            _report(self._services.settings, title, f"{name} {what}.", level="warning")
        time.sleep(pause)

    def _fail_lost_runs(self) -> None:
        """Mark the runs whose process died as failed, in a process that waits for the code server."""
        environment = self._services.running[0].environment
        subprocess.Popen(launched([sys.executable, "-m", LOST_RUNS]), stdin=subprocess.DEVNULL, env=environment)


def _report(settings: Settings, title: str, message: str, *, level: Level) -> None:
    """Send an alert if there is an address; a failed delivery is only logged."""
    if settings.alert_url is None or LEVELS.index(level) < LEVELS.index(settings.alert_level):
        return
    now = time.time()
    try:
        alerts.send(
            settings, Alert(alert_id=f"service {now:.3f}", happened_at=now, title=title, message=message, level=level)
        )
    except LvmError as problem:
        logger.warning("%s", problem)
