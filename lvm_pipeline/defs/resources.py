"""The settings as a Dagster resource, read from the environment when a run starts and not when this is imported."""

import dagster as dg

from lvm_pipeline.settings import Settings, load_settings


def _read_settings(_context: dg.InitResourceContext) -> Settings:
    return load_settings()


settings_resource = dg.ResourceDefinition(_read_settings, description="The variables LVM_*, see lvm_pipeline.settings.")


def settings_environment(settings: Settings) -> dict[str, str]:
    """Return the settings as the variables that make a child process read the same; secrets are among them."""
    values = {}
    for name in sorted({"home", *settings.model_fields_set}):
        value = getattr(settings, name)
        if value is not None:
            values[f"LVM_{name.upper()}"] = (
                value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
            )
    return values
