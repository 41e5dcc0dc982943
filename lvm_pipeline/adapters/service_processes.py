"""The processes of the services: start each with a log, restart one, stop all in order."""

import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psycopg

from lvm_pipeline.adapters import dagster_api, databases
from lvm_pipeline.adapters.launcher import launched
from lvm_pipeline.adapters.loopback import LOOPBACK
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

logger = logging.getLogger(__name__)

READY_SECONDS = 600  # a busy machine needs minutes
MAX_TIMEOUTS = 12  # requests in a row that a service accepts but does not answer, of 10 s each
STOP_SECONDS = 15
POLL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Service:
    """A child process: its command, how to check that it is ready, and whether the next one needs it."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    is_needed_by_next: bool = False


class Running(NamedTuple):
    service: Service
    process: subprocess.Popen[bytes]
    log_path: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Services:
    """The child processes, and the guard that ends those that are left."""

    settings: Settings
    guard: subprocess.Popen[bytes]
    running: list[Running] = field(default_factory=list)

    def start(self, service: Service, environment: Mapping[str, str]) -> None:
        log_path = self.settings.home / "logs" / f"{service.name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        if log_path.exists():
            log_path.replace(log_path.with_suffix(".log.1"))
        process = self._launch(service, log_path, environment)
        self.running.append(Running(service, process, log_path, environment))

    def restart(self, one: Running) -> None:
        """Restart a service that died; its log is continued."""
        self._tell_guard(-one.process.pid)
        process = self._launch(one.service, one.log_path, one.environment)
        self.running[self.running.index(one)] = one._replace(process=process)

    def _launch(self, service: Service, log_path: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                launched(service.command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.settings.dagster_dir, env=environment, start_new_session=True,
            )  # fmt: skip
        self._tell_guard(process.pid)
        return process

    def _tell_guard(self, number: int) -> None:
        assert self.guard.stdin is not None
        with suppress(BrokenPipeError):  # the guard was killed; the services go on without it
            self.guard.stdin.write(f"{number}\n".encode())
            self.guard.stdin.flush()

    def wait_until_ready(self, *, name: str | None = None) -> None:
        deadline = time.monotonic() + READY_SECONDS
        for one in [one for one in self.running if name in (None, one.service.name)]:
            num_timeouts = 0
            while num_timeouts < MAX_TIMEOUTS and time.monotonic() < deadline:
                try:
                    if one.service.is_ready():
                        break
                    num_timeouts = 0
                except dagster_api.NoAnswerError:
                    num_timeouts += 1
                self.check_running()
                time.sleep(POLL_SECONDS)
            else:
                problem = "hangs" if num_timeouts else f"did not start in {READY_SECONDS} s"
                raise LvmError(f"{one.service.name} {problem}; see {one.log_path}.")

    def check_running(self) -> None:
        """Raise an LvmError if a child has exited."""
        for one in self.running:
            if (code := one.process.poll()) is not None:
                raise LvmError(f"{one.service.name} exited with code {code}; see {one.log_path}.")

    def stop(self) -> None:
        """Terminate the children, then let the guard finish; a second Ctrl-C kills them at once."""
        try:
            if self.running:
                cancel_runs(self.settings)
            for one in self.running:
                one.process.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for one in self.running:
                one.process.wait(timeout=max(0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for one in self.running:
                one.process.kill()
                one.process.wait()
        self.guard.communicate()


def dagster_address(settings: Settings) -> str:
    """Return the address of the Dagster web UI."""
    return f"http://{LOOPBACK}:{settings.dagster_port}"


def cancel_runs(settings: Settings) -> None:
    """Cancel the runs of code servers; a failure is only logged."""
    try:
        dagster_api.cancel_code_server_runs(dagster_address(settings), storage_url=databases.dagster_url(settings))
    except (psycopg.Error, LvmError) as error:  # continue stopping; the next start cancels what is left
        logger.warning("Cannot cancel unfinished runs: %s", str(error).strip())
