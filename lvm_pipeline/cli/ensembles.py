"""The command `lvm ensemble`."""

from typing import Annotated, Literal

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.settings import load_settings

app = typer.Typer()


@app.command(short_help="Combine trained trials into one model.")
def ensemble(
    trials: Annotated[list[str] | None, typer.Argument(metavar="[TRIAL]...")] = None,
    top: Annotated[
        int, typer.Option(min=2, max=5, help="Without trial ids: how many of the best trials to combine.")
    ] = 3,
    name: Annotated[str | None, typer.Option(help="Name used in the ensemble's trial id.")] = None,
    weights: Annotated[
        Literal["equal", "validation"],
        typer.Option(
            help="equal, or fitted on the validation articles; fitted weights are used only if they are better in "
            "cross-fitting."
        ),
    ] = "equal",
    neighbours: Annotated[
        bool,
        typer.Option(
            "--neighbours",
            help="Add the mean residual of similar predictions on the train articles (unit vectors only).",
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Rebuild it even if nothing has changed.")] = False,
) -> None:
    """Combine trained trials into an ensemble, which predicts the weighted mean of their predictions.

    TRIAL is a trial id or the beginning of one; name two to five. Without any, the best of the leaderboard are
    combined. The ensemble is a trial like any other: evaluate it with `lvm evaluate --trial`, predict with
    `lvm predict --trial`. Each member reads what it was trained on. The ensemble stays as it is when a member is
    trained again or deleted.
    """
    from lvm_pipeline import lineage
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker

    settings, out = load_settings(), render.plain()
    with out.status("Combining"):
        chosen = trials or lineage.top_trials(settings, top)
        made = lineage.make_ensemble(
            settings,
            chosen,
            name=name,
            weighting=weights,
            neighbours=neighbours,
            tracker=MlflowTracker(settings),
            again=again,
        )
    render.show_ensemble(
        out, made.info, path=made.folder.model_dir, problem=made.tracking_problem, was_made=made.was_trained
    )
