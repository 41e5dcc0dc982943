"""Run the services with small definitions, as `lvm ui` runs them with the real ones."""

from rich.console import Console

from lvm_pipeline.adapters import services
from lvm_pipeline.settings import load_settings

if __name__ == "__main__":
    services.DEFINITIONS = "lvm_pipeline_tests.adapters.small_definitions"
    services.run_services(load_settings(), console=Console(width=200))
