"""DAGSTER_HOME and the environment of Dagster processes."""

import os
import sysconfig
from pathlib import Path

from lvm_pipeline.adapters import databases
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import write_text
from lvm_pipeline.settings import CHECKOUT_DIR, Settings

LOCATION_NAME = "lvm_pipeline"
# Dagster 1.13 writes an event first and the asset's record of it later. Automation that reads in between would skip the
# event; with this pause it reads late events again.
SETTLE_SECONDS = "3"
# A run begins with a process that imports the definitions, which takes over a minute where every core trains. After its
# default of 60 s Dagster would fail the run. Without the second variable, stopping a code server would wait as long.
PATIENCE = {"DAGSTER_GRPC_TIMEOUT_SECONDS": "300", "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60"}


def dagster_environment(settings: Settings) -> dict[str, str]:
    """Prepare DAGSTER_HOME and return the environment variables that Dagster needs.

    Starts the built-in Postgres if needed. The values contain its password: never print them.
    """
    shipped_path = shipped_file("dagster.yaml")
    instance = f"# Overwritten by every `lvm` command; edit {shipped_path}.\n{shipped_path.read_text(encoding='utf-8')}"
    instance_path = settings.dagster_dir / "dagster.yaml"
    if not instance_path.exists() or instance_path.read_text(encoding="utf-8") != instance:
        write_text(instance_path, instance)
    return {
        "LVM_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_dir),
        "DAGSTER_POSTGRES_URL": databases.dagster_url(settings),
        "DAGSTER_AUTOMATION_TICK_SETTLE_SECONDS": SETTLE_SECONDS,
        **{name: os.environ.get(name, value) for name, value in PATIENCE.items()},
        "DAGSTER_DISABLE_TELEMETRY": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def shell_environment(settings: Settings) -> dict[str, str]:
    """Prepare DAGSTER_HOME and return the variables of a shell, without secrets: the storage finds its URL itself."""
    values = dagster_environment(settings)
    return {name: value for name, value in values.items() if name != "DAGSTER_POSTGRES_URL"}


def code_server_workspace(settings: Settings, *, port: int) -> Path:
    """Write the workspace file of processes that load the definitions from a code server on loopback."""
    lines = ["load_from:", "  - grpc_server:", "      host: 127.0.0.1", f"      port: {port}"]
    lines.append(f"      location_name: {LOCATION_NAME}")  # schedules belong to this name; the port may change
    path = settings.dagster_dir / "workspace.yaml"
    write_text(path, "\n".join(lines) + "\n")
    return path


def shipped_file(name: str) -> Path:
    """Return a file of the project's root, from the checkout or from the installed wheel.

    Raises:
        LvmError: If it is missing.
    """
    paths = (CHECKOUT_DIR / name, Path(sysconfig.get_path("data")) / "share" / "lvm-pipeline" / name)
    for path in paths:
        if path.is_file():
            return path
    raise LvmError(f"{name} is missing from {os.path.commonpath(paths)}; install the project again.")
