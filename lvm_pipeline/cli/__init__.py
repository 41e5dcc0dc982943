"""The command `lvm`: commands, services (start, stop, watch), render (what is printed)."""

from lvm_pipeline.imports import end_without_search, lasting_imports


def main() -> None:
    """Run the command line."""
    end_without_search()
    with lasting_imports():
        from lvm_pipeline.cli import commands
    commands.main()
