"""The commands `lvm tmd ...`."""

from dataclasses import asdict

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import load_settings

app = typer.Typer(help="Assign TMD codes to concepts that have none.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """Keep `assign` a command of its own."""


@app.command(name="assign")
def assign(as_json: JsonOption = False) -> None:
    """Assign TMD codes in the source table, to concepts that have none, by the nearest label description.

    A code is then a function of the concept's vector. Needs the encoder of the vectors' space. Run `lvm run` afterwards
    to extract the concepts with their codes.
    """
    from lvm_pipeline.lineage.tmd import assign_tmd

    assignment = assign_tmd(load_settings())
    if as_json:
        render.print_json(asdict(assignment))
    elif not assignment.num_without:
        render.plain().print("Every concept has a TMD code; nothing was assigned.")
    else:
        render.plain().print(f"{assignment.in_words()}. Extract the concepts again (lvm run) to use them.")
