"""The commands `lvm preference ...`."""

from dataclasses import asdict
from typing import Annotated

import typer

from lvm_pipeline.cli import render
from lvm_pipeline.cli.options import LatestOption, TrialOption
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import load_settings
from lvm_pipeline.words import counted

app = typer.Typer(
    help="Blinded comparison of texts by people, in the review queues of MLflow.",
    short_help="Ask people which texts they prefer.",
    no_args_is_help=True,
)

StudyOption = Annotated[str | None, typer.Option("--study", help="Study id. Default: the latest study.")]


@app.command(short_help="Create a study.")
def create(
    rater: Annotated[list[str] | None, typer.Option("--rater", help="Name of a rater; repeat for several.")] = None,
    trial: TrialOption = None,
    architecture: LatestOption = "lstm",
    against: Annotated[str | None, typer.Option(help="Also compare with this trial, such as the champion.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Maximum number of pairs in each comparison.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of pairs, sides, repeats and order.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Create a blinded study of a trial's smoothed texts: smoothed against decoded, and against the control.

    Every rater gets a review queue in MLflow (open it with `lvm ui`). A tenth of the pairs is shown twice with the
    sides swapped. Which text is which is kept in LVM_HOME/preference, where raters should not look.
    """
    from lvm_pipeline import lineage
    from lvm_pipeline.lineage.preference import ASSUMED_RATES

    settings, out = load_settings(), render.plain(quiet=as_json)
    folder = lineage.named_trial(settings, trial) if trial else lineage.latest_trial(settings, architecture)
    other = lineage.named_trial(settings, against) if against else None
    with out.status("Creating review queues"):
        study = lineage.create_study(settings, folder, raters=rater or [], against=other, num_pairs=pairs, seed=seed)
    if as_json:
        render.print_json({"study_id": study.study_id, "items": len(study.pairs), "urls": study.urls})
        return
    out.print(f"Created study {study.study_id}: {counted(len(study.pairs), 'item')} for each rater.")
    for name, url in study.urls.items():
        render.say(out, f"  {name}: {url}")
    from lvm_pipeline.evaluation.preference import THRESHOLD, judgements_needed

    needed = ", ".join(f"{judgements_needed(rate)} if the true win rate is {rate:.0%}" for rate in ASSUMED_RATES)
    out.print(
        f"To show a win rate above {THRESHOLD:.0%} in four of five studies, each comparison needs {needed}: judgements "
        "on different articles; several on one article count for less.",
        soft_wrap=True,
    )


@app.command(short_help="Show the progress of the raters.")
def status(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Show how many items of a study each rater has answered."""
    from lvm_pipeline import lineage

    rows = [asdict(each) for each in lineage.study_status(load_settings(), study)]
    if as_json:
        render.print_json(rows)
    else:
        render.show_rows(render.plain(), rows)


@app.command(short_help="Score the answers of a study.")
def collect(study: StudyOption = None, as_json: JsonOption = False) -> None:
    """Score the answers that a study has so far and show them in the trial's report."""
    from lvm_pipeline import lineage
    from lvm_pipeline.evaluation.preference_tables import preference_section

    scores, out = lineage.collect_study(load_settings(), study), render.plain()
    if as_json:
        render.print_json(asdict(scores))
        return
    section = preference_section(scores)
    for table in section.tables:
        render.show_table(out, table)
    render.say(out, " ".join(section.sentences))
