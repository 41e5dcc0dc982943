"""The settings as a Dagster resource, read from the environment when a run starts and not when this is imported."""

import dagster as dg

from lvm_pipeline.settings import Settings, load_settings


def _read_settings(_context: dg.InitResourceContext) -> Settings:
    return load_settings()


settings_resource = dg.ResourceDefinition(
    _read_settings, description="Settings from the environment variables LVM_...; `lvm settings` lists them."
)
