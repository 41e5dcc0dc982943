"""The command `lvm`: commands, services (start, stop, watch), render (what is printed)."""

from lvm_pipeline.cli.commands import app, main
