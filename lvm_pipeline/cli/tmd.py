"""The commands `lvm tmd ...`."""

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import load_settings

app = typer.Typer(help="Assign TMD codes to concepts that have none.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """Keep `assign` a command of its own."""


@app.command(name="assign")
def assign(
    by: Annotated[
        Literal["labels", "chat"],
        typer.Option(help="labels: the nearest label description; chat: a language model that reads the text."),
    ] = "labels",
    as_json: JsonOption = False,
) -> None:
    """Assign TMD codes in the source table, to concepts that lack them; codes that they have are kept.

    With `--by labels` a code is a function of the concept's vector; this needs the encoder of the vectors' space. With
    `--by chat` the language model of LVM_CHAT_URL and LVM_CHAT_MODEL chooses among the same descriptions; codes are
    validated, and an interrupted assignment continues where it stopped. Run `lvm run` afterwards to extract the
    concepts with their codes.
    """  # noqa: DOC501 - the docstring is the help
    from lvm_pipeline.lineage.tmd import assign_tmd

    out = render.plain(quiet=as_json)
    with out.status("Assigning codes"):
        assignment = assign_tmd(load_settings(), method=by)
    if as_json:
        render.print_json(asdict(assignment))
    elif not assignment.num_without:
        out.print("Every concept has TMD codes; nothing was assigned.")
    elif assignment.num_assigned:
        render.say(out, f"{assignment.in_words()}. Extract the concepts again (lvm run) to use them.")
    elif not assignment.failures:
        out.print("The source table already has codes for these concepts; extract them again (lvm run).")
    if assignment.failures and not assignment.num_assigned:
        reasons = ", ".join(f"{count} {kind}" for kind, count in sorted(assignment.failures.items()))
        raise LvmError(f"The language model gave no codes ({reasons}); see whether its server runs and has this model.")
