"""MLflow's own model server on the champion."""

import subprocess
import sys
from pathlib import Path

from lvm_pipeline.adapters import mlflow_registry
from lvm_pipeline.adapters.launcher import launched
from lvm_pipeline.adapters.loopback import is_free
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings


def serve_champion(settings: Settings, *, host: str, port: int) -> int:
    """Run `mlflow models serve` on the champion until it ends, and return its exit code.

    Raises:
        LvmError: If there is no champion yet, or the port is in use.
    """
    champion = mlflow_registry.champion(settings)
    if champion is None:
        raise LvmError(
            "There is no champion yet, so MLflow has no model to serve; choose one: `lvm champion --choose`."
        )
    if not is_free(port):
        raise LvmError(f"Port {port} is in use; choose another with --port.")
    command = serve_command(champion.model_dir.parent, host=host, port=port)
    with subprocess.Popen(launched(command)) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ctrl-C reaches the server too, SIGTERM does not
            return process.wait()


def serve_command(model_dir: Path, *, host: str, port: int) -> list[str]:
    """Return the command of MLflow's server on a folder with an `MLmodel`."""
    options = ["--model-uri", str(model_dir), "--env-manager", "local", "--host", host, "--port", str(port)]
    return [sys.executable, "-m", "mlflow", "models", "serve", *options]
