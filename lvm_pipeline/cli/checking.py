"""The commands `lvm verify` and `lvm drift`: check the data, and compare them with what the champion was trained on."""

from typing import TYPE_CHECKING, Annotated

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.options import ValidationArticlesOption, settings_of
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.lineage import ProductVerification

app = typer.Typer()


@app.command(short_help="Check the data and write the verification report.")
def verify(
    products: Annotated[
        bool, typer.Option("--products", help="Check the promoted files, drift and the champion, not the source table.")
    ] = False,
    validation_articles: ValidationArticlesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check source table, concepts and sequences, and write the verification report. Exit code 1 if a check fails."""
    from lvm_pipeline import lineage

    settings = settings_of(validation_articles=validation_articles)
    out = render.plain(quiet=as_json)
    with render.progress_bars(out) as bars:
        if products:
            verification = verified_products(settings)
        else:
            verification = lineage.verify_source(settings, progress=bars.task("Reading the source"))
    if as_json:
        render.print_json(verification.as_json())
    else:
        render.show_verification(out, verification)
    if not verification.passed:
        raise typer.Exit(1)


def verified_products(settings: Settings) -> "ProductVerification":
    from lvm_pipeline import lineage
    from lvm_pipeline.defs.record import record_verification

    verification = lineage.verify_all_products(settings)
    record_verification(settings, verification)
    return verification


@app.command(short_help="Compare the concepts with the champion's training data.")
def drift(
    fail: Annotated[bool, typer.Option("--fail", help="Exit with code 1 if there is drift.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the concepts with those that the champion was trained on, and write the drift report."""
    from lvm_pipeline import lineage

    out = render.plain(quiet=as_json)
    with out.status("Comparing"):
        found, report_path = lineage.check_drift(settings_of())
    if as_json:
        render.print_json(found.as_json())
    else:
        render.show_drift(out, found, report_path)
    if fail and found.has_drifted:
        raise typer.Exit(1)
