"""DAGSTER_HOME and the environment in which every Dagster process of this project runs."""

import os
import sysconfig
from pathlib import Path

from lvm_pipeline.adapters import databases
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import write_text
from lvm_pipeline.settings import CHECKOUT_DIR, Settings

LOCATION_NAME = "lvm_pipeline"
# Dagster 1.13 writes an event and the asset's record of it one after the other. Automation that looks in between takes
# the event for seen and forgets it; with this pause it looks again at what came late.
SETTLE_SECONDS = "3"


def dagster_environment(settings: Settings) -> dict[str, str]:
    """Make DAGSTER_HOME ready and return the variables that Dagster needs beside the present environment.

    Starts the embedded Postgres if need be. The values hold its password: hand them to a child (or set them before
    Dagster reads them), print them nowhere.
    """
    instance = shipped_file("dagster.yaml").read_text(encoding="utf-8")
    instance_path = settings.dagster_dir / "dagster.yaml"
    if not instance_path.exists() or instance_path.read_text(encoding="utf-8") != instance:
        write_text(instance_path, instance)
    return {
        "LVM_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_dir),
        "DAGSTER_POSTGRES_URL": databases.dagster_url(settings),
        "DAGSTER_AUTOMATION_TICK_SETTLE_SECONDS": SETTLE_SECONDS,
        "DAGSTER_DISABLE_TELEMETRY": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def code_server_workspace(settings: Settings, *, port: int) -> Path:
    """Write the workspace file of processes that find the definitions at a code server on loopback."""
    lines = ["load_from:", "  - grpc_server:", "      host: 127.0.0.1", f"      port: {port}"]
    lines.append(f"      location_name: {LOCATION_NAME}")  # stays while the port changes: schedules hang on it
    path = settings.dagster_dir / "workspace.yaml"
    write_text(path, "\n".join(lines) + "\n")
    return path


def shipped_file(name: str) -> Path:
    """Return a file of the project's root: in a checkout there, else where the wheel installs it.

    Raises:
        LvmError: If it is in neither place.
    """
    places = (CHECKOUT_DIR / name, Path(sysconfig.get_path("data")) / "share" / "lvm-pipeline" / name)
    for place in places:
        if place.is_file():
            return place
    raise LvmError(f"{name} is missing from {os.path.commonpath(places)}; install the project again.")
