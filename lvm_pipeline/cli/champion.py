"""The command that shows or chooses the champion."""

from typing import Annotated

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import load_settings

app = typer.Typer()

NO_CHAMPION = (
    "No model has been chosen yet. `lvm run` trains models and chooses one; `--choose` compares those that exist."
)


@app.command(short_help="Show the champion, or choose it.")
def champion(
    choose: Annotated[bool, typer.Option("--choose", help="Compare the trained models with the champion now.")] = False,
    choose_anew: Annotated[
        bool,
        typer.Option(
            "--choose-anew",
            help="Choose as if there were no champion, for instance if its files or its run are gone. The champion "
            "stays if no model can be promoted.",
        ),
    ] = False,
    hold: Annotated[
        str | None,
        typer.Option(
            metavar="TRIAL",
            help="Make a trial's model the champion and keep it: no stage and no schedule replaces it until you use "
            "--choose, which compares with it, or --choose-anew, which does not. To go back to an earlier champion, "
            "give its version in MLflow (such as 3); its trial may have been trained again since.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the champion and why it was chosen; --choose applies the champion rule now."""
    from lvm_pipeline import lineage

    if hold is not None and (choose or choose_anew):
        raise typer.BadParameter("give either --hold, or --choose, or --choose-anew")
    settings, out = load_settings(), render.plain(quiet=as_json)
    with out.status("Comparing"):
        if hold is not None:
            chosen = lineage.hold_champion(settings, hold)
        elif choose or choose_anew:
            chosen = lineage.choose_champion(settings, ignore_incumbent=choose_anew, release_held=True)
        else:
            chosen = lineage.read_champion(settings)
    if as_json:
        render.print_json(chosen)
        return
    version = f", version {chosen['version']} in MLflow" if chosen.get("version") else ""
    render.say(out, f"Champion: {chosen.get('name') or 'none'}{version}")
    render.say(out, chosen["decision"]["reason"] if chosen else NO_CHAMPION)
