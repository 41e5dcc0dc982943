"""Run Dagster (web UI, daemon, code server) and the MLflow server on loopback until Ctrl-C.

Every service is a child in its own process group, so that Ctrl-C reaches only this process, which stops them in order.
A service that dies is started again (`service_watch`).
If this process is killed, the kernel signals each service (`launcher`), and a guard ends the rest of their groups
(`service_guard`). Output goes to `LVM_HOME/logs`.
"""

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import psutil
from filelock import FileLock, Timeout
from rich.console import Console

from lvm_pipeline.adapters import dagster_api, databases, embedded_postgres, mlflow_store
from lvm_pipeline.adapters.dagster_home import code_server_workspace, dagster_environment
from lvm_pipeline.adapters.loopback import LOOPBACK, free_port, is_free
from lvm_pipeline.adapters.service_ports import service_ports, shared_ports
from lvm_pipeline.adapters.service_processes import Service, Services, cancel_runs, dagster_address
from lvm_pipeline.adapters.service_watch import CODE_SERVER, watch
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import only_one, write_text
from lvm_pipeline.settings import Settings

DEFINITIONS = "lvm_pipeline.definitions"
DAEMON_WATCH = "lvm_pipeline.defs.daemon_watch"
REPORT_PAGES = "lvm_pipeline.serving.report_pages"
PID_FILE = "services.pid"


def run_services(settings: Settings, *, console: Console | None = None) -> None:
    """Start all services, print their addresses, and stop them at Ctrl-C, SIGTERM or SIGHUP.

    The built-in Postgres is stopped too if it was not running before and no other command is using it.
    """
    console = console or Console()
    problem = f"The services of {settings.home} are already running; stop them first or set another LVM_HOME."
    with only_one(settings.dagster_dir / "services.lock", problem), _stop_signals():
        _refuse_taken_ports(settings)
        write_text(settings.dagster_dir / PID_FILE, str(os.getpid()))
        services = Services(settings=settings, guard=_start_guard(settings))
        try:
            with console.status("Starting ...") as status:
                _start_all(services, say=lambda name: status.update(f"Starting {name} ..."))
            _print_addresses(settings, console)
            watch(services, console)
        except KeyboardInterrupt:
            pass
        finally:
            with console.status("Stopping ..."):
                services.stop()
        console.print("Stopped.")


def _start_all(services: Services, *, say: Callable[[str], None]) -> None:
    say("Postgres")
    environment = _service_environment(services.settings)
    for service in _in_order(services.settings, environment):
        say(service.name)
        services.start(service, environment)
        if service.is_needed_by_next:
            services.wait_until_ready(name=service.name)
    services.wait_until_ready()


def _in_order(settings: Settings, environment: Mapping[str, str]) -> Iterator[Service]:
    """Yield the services in the order of their dependencies."""
    scripts = Path(sysconfig.get_path("scripts"))
    if settings.mlflow_tracking_uri is None:
        _prepare_mlflow_store(environment)
        mlflow_address = f"http://{LOOPBACK}:{settings.mlflow_port}"
        yield Service(
            name="mlflow",
            command=(str(scripts / "mlflow"), "server", "--host", LOOPBACK, "--port", str(settings.mlflow_port),
                     "--workers", "1", "--artifacts-destination", (settings.mlflow_dir / "artifacts").as_uri()),
            is_ready=lambda: dagster_api.get(f"{mlflow_address}/health") is not None,
        )  # fmt: skip
    reports_address = f"http://{LOOPBACK}:{settings.reports_port}"
    yield Service(
        name="reports",
        command=(sys.executable, "-m", REPORT_PAGES, LOOPBACK, str(settings.reports_port)),
        is_ready=lambda: dagster_api.get(reports_address) is not None,
    )
    code_port = free_port()
    workspace_path = str(code_server_workspace(settings, port=code_port))
    yield Service(
        name=CODE_SERVER,
        command=(str(scripts / "dagster"), "code-server", "start", "-h", LOOPBACK, "-p", str(code_port), "-m",
                 DEFINITIONS),
        is_ready=lambda: not is_free(code_port),
        is_needed_by_next=True,
    )  # fmt: skip
    address = dagster_address(settings)
    yield Service(
        name="dagster-webserver",
        command=(str(scripts / "dagster-webserver"), "-h", LOOPBACK, "-p", str(settings.dagster_port), "-w",
                 workspace_path),
        is_ready=lambda: dagster_api.has_loaded_definitions(address),
        is_needed_by_next=True,  # it creates the tables, which two processes must not do at once
    )  # fmt: skip
    cancel_runs(settings)  # those of a code server that was killed
    yield Service(
        name="dagster-daemon",
        command=(str(scripts / "dagster-daemon"), "run", "-w", workspace_path),
        is_ready=lambda: dagster_api.has_healthy_daemons(address),
    )
    if settings.alert_url is not None:
        command = (sys.executable, "-m", DAEMON_WATCH)
        yield Service(name="daemon-watch", command=command, is_ready=lambda: True)


def _prepare_mlflow_store(environment: Mapping[str, str]) -> None:
    """Create MLflow's tables in a child process: here its connections would stay open and keep Postgres in use."""
    code = "from lvm_pipeline.adapters import mlflow_store; from lvm_pipeline.settings import load_settings; "
    code += "mlflow_store.open_client(load_settings())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LvmError(f"MLflow's tables cannot be created: {reason}")


def _service_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the services. Secrets are passed here and not on command lines."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, **dagster_environment(settings), "PATH": path, "PYTHONUNBUFFERED": "1"}
    if settings.mlflow_tracking_uri is None:
        environment["MLFLOW_BACKEND_STORE_URI"] = databases.mlflow_url(settings)
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # saves eight processes and 0.6 GB
    return environment


def _start_guard(settings: Settings) -> subprocess.Popen[bytes]:
    has_server = embedded_postgres.status(settings.postgres_dir).is_running
    arguments = [] if has_server else [str(settings.postgres_dir)]
    return subprocess.Popen(
        [sys.executable, "-m", "lvm_pipeline.adapters.service_guard", *arguments],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def serving_process(settings: Settings) -> psutil.Process | None:
    """Return the process that runs the services of this home, None if they are not running."""
    if not are_running(settings):
        return None
    try:
        return psutil.Process(int((settings.dagster_dir / PID_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None  # it is starting or ending at this moment


def are_running(settings: Settings) -> bool:
    """Whether a process is running the services of this home."""
    lock_path = settings.dagster_dir / "services.lock"
    try:
        with FileLock(lock_path, timeout=0) if lock_path.exists() else nullcontext():
            return False
    except Timeout:
        return True


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (a closed terminal) stop the services as Ctrl-C does, even if SIGINT is ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _refuse_taken_ports(settings: Settings) -> None:
    for conflict in shared_ports(settings):
        raise LvmError(f"{conflict}; give each another port.")
    for variable, port in service_ports(settings).items():
        if not is_free(port):
            raise LvmError(f"Port {port} is used by another program; stop it or set {variable} to a free port.")


def _print_addresses(settings: Settings, console: Console) -> None:
    mlflow = mlflow_store.ui_url(settings)
    console.print(f"Dagster  [link]{dagster_address(settings)}[/link]", highlight=False)
    console.print(f"MLflow   [link]{mlflow}[/link]", highlight=False)
    console.print(f"Reports  [link]http://{LOOPBACK}:{settings.reports_port}[/link]", highlight=False)
    console.print(f"Logs     {settings.home / 'logs'}", highlight=False)
    console.print("Ctrl-C stops everything.")
