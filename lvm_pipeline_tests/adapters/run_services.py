"""Run the services with small definitions: `python -m ... HOME DAGSTER_PORT MLFLOW_PORT`."""

import sys
from pathlib import Path

from rich.console import Console

from lvm_pipeline.adapters import services
from lvm_pipeline.settings import Settings

if __name__ == "__main__":
    services.DEFINITIONS = "lvm_pipeline_tests.adapters.small_definitions"
    home, dagster_port, mlflow_port = sys.argv[1:]
    settings = Settings(home=Path(home), dagster_port=int(dagster_port), mlflow_port=int(mlflow_port))
    services.run_services(settings, console=Console(width=200))
