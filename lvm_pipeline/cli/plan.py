"""The commands `lvm plan ...`: list the trials of the plan, run them, and write the study report."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from lvm_pipeline.cli import render
from lvm_pipeline.cli.options import PresetOption, SetOption, settings_of
from lvm_pipeline.cli.services import JsonOption
from lvm_pipeline.settings import Settings
from lvm_pipeline.tables import Column, Table

if TYPE_CHECKING:
    from lvm_pipeline.experiments.trial_scores import Outcome

app = typer.Typer(
    help="The plan of trials: list them, run them, write the study report.",
    short_help="List, run and report the plan of trials.",
    no_args_is_help=True,
)
WeekOption = Annotated[int | None, typer.Option("--week", "-w", help="Week of the plan, 1 to 5. Default: all.")]
BEST_COLUMNS = ("architecture", "config", "cosine over seeds", "parameters")


@app.command(name="list")
def list_(
    week: WeekOption = None, preset: PresetOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """List the trials of the plan with their status.

    planned: not run yet. done, failed or refused: how it ended. stopped: ended early, since others were better. stale:
    run with other data or code. waiting: depends on the results of other trials.
    """
    from lvm_pipeline import lineage
    from lvm_pipeline.experiments.study_page import STATUS_MARKS

    rows = lineage.plan_rows(settings_of(preset=preset, set_options=set_), week=week)
    if as_json:
        render.print_json(rows)
        return
    columns: list[Column[dict[str, Any]]] = [
        Column(title="trial", text=lambda row: row["trial_id"], is_text=True),
        Column(title="week", text=lambda row: str(row["week"])),
        Column(title="overrides", text=lambda row: _in_words(row["overrides"]), is_text=True),
        Column(title="status", text=_status, mark=lambda row: STATUS_MARKS.get(row["status"], ""), is_text=True),
    ]
    render.show_table(render.plain(), Table(columns=columns, rows=rows))


@app.command()
def run(
    week: WeekOption = None,
    preset: PresetOption = None,
    budget_seconds: Annotated[
        float | None, typer.Option(min=0, help="Start no trial after this many seconds. Default: no limit.")
    ] = None,
    set_: SetOption = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Run trials that are done, and start from the beginning if a checkpoint is unusable."
        ),
    ] = False,
) -> None:
    """Run the trials of the plan one after the other in this process, and write the study report.

    Trials that are done with the same data, code and options are not run again. An interrupted trial resumes from its
    checkpoint. A trial that fails or is refused is recorded, and the plan goes on.
    """
    from lvm_pipeline import lineage

    settings = settings_of(preset=preset, set_options=set_)
    out = render.plain()

    def show(outcome: "Outcome", done: int, total: int, *, is_new: bool) -> None:
        out.print(f"{done}/{total} {outcome.trial_id}: {_ended(outcome, is_new=is_new)}", soft_wrap=True)

    ended = lineage.run_plan(
        settings,
        week=week,
        budget_seconds=budget_seconds,
        tracker_for=lambda number: lineage.plan_tracker(settings, number),
        on_trial=show,
        again=again,
    )
    counts = ", ".join(f"{ended.count(status)} {status}" for status in ("done", "stopped", "failed", "refused"))
    out.print(f"{counts}, {ended.num_left} left; {ended.num_new} of them run now.")
    _show_report(out, settings)


@app.command()
def report(preset: PresetOption = None, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Write the study report (HTML, JSON) and experiments.csv from the trials of the plan that are done."""
    from lvm_pipeline import lineage

    settings = settings_of(preset=preset, set_options=set_)
    if as_json:
        render.print_json(lineage.write_study(settings)[0].as_json())
    else:
        _show_report(render.plain(), settings)


def _show_report(out: Console, settings: Settings) -> None:
    from lvm_pipeline import lineage
    from lvm_pipeline.experiments.study_page import best_configs_table, headline

    study, paths = lineage.write_study(settings)
    if study.done:
        render.show_table(out, best_configs_table(study).only(*BEST_COLUMNS), title="Best config of each architecture")
    render.say(out, headline(study))
    for path in paths:
        render.say(out, f"Wrote {path}")


def _in_words(overrides: dict[str, object]) -> str:
    return ", ".join(f"{name.removeprefix('model.')} {value}" for name, value in overrides.items())


def _status(row: dict[str, Any]) -> str:
    return f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]


def _ended(outcome: "Outcome", *, is_new: bool) -> str:
    if outcome.scores is None:
        return f"[yellow]{outcome.status}[/]: {escape(outcome.reason or '')}"
    when = f"{outcome.seconds:.1f} s" if is_new else "done before"
    gain = outcome.scores.gain.mean
    return f"cosine {outcome.scores.cosine:.4f} ({gain:+.4f} over {outcome.scores.best_baseline}), {when}"
