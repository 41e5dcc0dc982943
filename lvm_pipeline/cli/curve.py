"""The command `lvm learning-curve`."""

from dataclasses import asdict

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.options import LatestOption, TrialOption
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import load_settings

app = typer.Typer()


@app.command(name="learning-curve", short_help="Train a trial's configuration on parts of the train articles.")
def learning_curve(
    trial: TrialOption = None,
    architecture: LatestOption = "lstm",
    as_json: JsonOption = False,
) -> None:
    """Train a trial's configuration on 25 and 50 % of the train articles and score each on the same targets.

    The smaller trainings are kept in the trial's folder. The curve appears in the trial's report.
    """
    from lvm_pipeline import lineage
    from lvm_pipeline.evaluation.standing_tables import curve_table

    settings, out = load_settings(), render.plain(quiet=as_json)
    folder = lineage.named_trial(settings, trial) if trial else lineage.latest_trial(settings, architecture)
    with out.status("Training on parts of the train articles"):
        curve = lineage.make_learning_curve(settings, folder)
    if as_json:
        render.print_json(asdict(curve))
    else:
        render.show_table(out, curve_table(curve), title=f"Learning curve of {folder.trial_id}")
