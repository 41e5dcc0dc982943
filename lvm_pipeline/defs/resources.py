"""Resources of the assets: the settings, read from the environment when a run starts, not at import."""

import dagster as dg

from lvm_pipeline.settings import Settings, load_settings


def _read_settings(_context: dg.InitResourceContext) -> Settings:
    return load_settings()


settings_resource = dg.ResourceDefinition(
    _read_settings, description="Settings from the environment variables LVM_...; `lvm settings` lists them."
)


class _NoIOManager(dg.IOManager):
    """Replaces Dagster's default, which pickles: no asset here returns a value."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        raise dg.DagsterInvariantViolationError("Assets write their own files; return a MaterializeResult.")

    def load_input(self, context: dg.InputContext) -> object:
        raise dg.DagsterInvariantViolationError("Assets read their own files; use deps instead of inputs.")


no_io_manager = dg.IOManagerDefinition(
    lambda _context: _NoIOManager(), description="Not used: every asset reads and writes its own files."
)
