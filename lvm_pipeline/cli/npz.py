"""The commands `lvm export` and `lvm import`."""

from pathlib import Path

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.options import ValidationArticlesOption, settings_of

app = typer.Typer()


@app.command(name="export", short_help="Export concepts and sequences as NPZ files.")
def export_(folder: Path) -> None:
    """Export the promoted concepts and sequences to FOLDER, as NPZ files that load without pickle."""
    from lvm_pipeline.lineage import from_files

    for path in from_files.export_npz(settings_of(), folder):
        render.say(render.plain(), f"Wrote {path}")


@app.command(name="import", short_help="Import an NPZ file.")
def import_(
    file: Path,
    validation_articles: ValidationArticlesOption = None,
) -> None:
    """Import FILE, an NPZ file of ordered concepts or of sequences, as the promoted data if it passes all checks."""
    from lvm_pipeline.lineage import from_files

    verification = from_files.import_npz(settings_of(validation_articles=validation_articles), file)
    render.show_verification(render.plain(), verification)
    if not verification.passed:
        raise typer.Exit(1)
