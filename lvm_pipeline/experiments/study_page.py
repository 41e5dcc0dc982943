"""The study report: tables, its HTML page and its files."""

from pathlib import Path

from markupsafe import Markup

from lvm_pipeline.evaluation.pages import duration, render, size
from lvm_pipeline.evaluation.report_tables import interval_in_words, interval_mark, noted
from lvm_pipeline.experiments.plan import WEEKS
from lvm_pipeline.experiments.refinement import AXES, PRUNER, SAMPLER
from lvm_pipeline.experiments.study import ConfigGroup, Study, StudyRow, experiments_csv
from lvm_pipeline.experiments.study_plots import parallel_coordinates, pareto_plots, sensitivity_plots
from lvm_pipeline.files import write_json, write_text
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.tables import Column, Mark, Table, number, three_digits
from lvm_pipeline.words import counted

JSON_NAME, HTML_NAME, CSV_NAME = "study.json", "study.html", "experiments.csv"
STATUS_MARKS: dict[str, Mark] = {
    "done": "good",
    "stopped": "unsure",
    "failed": "bad",
    "refused": "warn",
    "stale": "unsure",
}
STATUS_MEANINGS = {
    "done": "trained and scored",
    "stopped": "ended early, since others were better",
    "failed": "ended with an error",
    "refused": "cannot be trained on this data",
    "stale": "run with other data or code",
    "planned": "not run yet",
    "waiting": "depends on the results of other trials",
}


def write_study_files(study: Study, folder: Path) -> tuple[Path, Path, Path]:
    """Write `study.html`, `study.json` and `experiments.csv`; return their paths."""
    html_path, json_path, csv_path = (folder / name for name in (HTML_NAME, JSON_NAME, CSV_NAME))
    write_json(json_path, study.as_json())
    write_text(csv_path, experiments_csv(study))
    write_text(html_path, study_html(study))
    return html_path, json_path, csv_path


def study_html(study: Study) -> str:
    return render(
        "study.html.jinja",
        study=study,
        headline=headline(study),
        weeks=WEEKS,
        best=best_configs_table(study),
        trials=trials_table(study),
        configs=configs_table(study),
        refinements=refinements_table(study) if study.refinements else None,
        search=f"Optuna: {SAMPLER}; a training is stopped if its score is {PRUNER}.",
        pareto=pareto_plots(study) if study.done else [],
        sensitivity=sensitivity_plots(study),
        parallel=parallel_coordinates(study),
        statuses=sorted({row.status for row in study.rows}),
        meanings=STATUS_MEANINGS,
        architectures=sorted({row.architecture for row in study.rows}),
    )


def headline(study: Study) -> str:
    """Summarise the study in one or two sentences."""
    if not study.done:
        return f"None of the {len(study.rows):,} trials is done."
    gains = [row.corrected_gain for row in study.done if row.corrected_gain]
    winners = sum(gain.is_above_zero for gain in gains)
    level = sum(row.is_level_with_best for row in study.done) - 1
    apart = f"; {counted(level, 'other trial')} cannot be distinguished from it" if level else ""
    return (
        f"{winners} of {counted(len(study.done), 'trial beats', 'trials beat')} "
        "the best baseline after correction for their number. The best is "
        f"{study.done[0].trial_id}{apart}."
    )


def best_configs_table(study: Study) -> Table[ConfigGroup]:
    return Table(columns=_CONFIG_COLUMNS, rows=study.best_configs)


def configs_table(study: Study) -> Table[ConfigGroup]:
    """Return all configs with the mean over their seeds."""
    return Table(columns=_CONFIG_COLUMNS, rows=study.groups)


def refinements_table(study: Study) -> Table[StudyRow]:
    """Return the refinements in the order in which they were proposed, with the options that were searched."""

    def option(name: str) -> Column[StudyRow]:
        return number(name.removeprefix("model."), lambda row: row.overrides.get(name), write=three_digits)

    columns: list[Column[StudyRow]] = [
        Column(title="number", text=lambda row: str(study.refinements.index(row) + 1)),
        Column(title="trial", text=lambda row: row.trial_id, html=_linked, is_text=True),
        Column(title="status", text=lambda row: row.status, mark=_status_mark, is_text=True),
        *[option(axis.option) for axis in AXES],
        number("cosine", lambda row: row.scores and row.scores.cosine),
        Column(title="remark", text=lambda row: row.reason or "", is_text=True),
    ]
    return Table(columns=columns, rows=study.refinements)


def trials_table(study: Study) -> Table[StudyRow]:
    gains = [row.corrected_gain for row in study.done if row.corrected_gain]
    ranks = {row.trial_id: rank for rank, row in enumerate(study.done, start=1)}

    def gain_html(row: StudyRow) -> Markup:
        return interval_mark(row.corrected_gain, gains) if row.corrected_gain else Markup()

    columns: list[Column[StudyRow]] = [
        Column(title="rank", text=lambda row: str(ranks.get(row.trial_id, ""))),
        Column(title="trial", text=lambda row: row.trial_id, html=_trial_html, is_text=True),
        Column(title="week", text=lambda row: str(row.week)),
        Column(title="architecture", text=lambda row: row.architecture, is_text=True),
        Column(title="seed", text=lambda row: str(row.seed)),
        Column(title="status", text=lambda row: row.status, mark=_status_mark, is_text=True),
        number("cosine", lambda row: row.scores and row.scores.cosine),
        Column(
            title="gain, corrected 95 % interval",
            text=lambda row: interval_in_words(row.corrected_gain),
            html=gain_html,
            is_text=True,
        ),
        Column(title="level with best", text=lambda row: "yes" if row.is_level_with_best else ""),
        number("MRR", lambda row: row.scores and row.scores.mrr, ".3f"),
        number("R@10", lambda row: row.scores and row.scores.r_at_10, ".3f"),
        Column(title="parameters", text=lambda row: size(row.scores.num_params) if row.scores else ""),
        number("latency, ms", lambda row: row.scores and row.scores.latency_ms, write=three_digits),
        number("seconds", lambda row: row.scores and row.scores.training_seconds, write=three_digits),
    ]
    return Table(columns=columns, rows=study.rows)


def _status_mark(row: StudyRow) -> Mark:
    return STATUS_MARKS.get(row.status, "")


def _linked(row: StudyRow) -> Markup:
    """Return the id of a trial as a link to its report, or to its MLflow run if it has no report."""
    address = f"../trials/{row.trial_id}/report.html" if row.has_report else row.mlflow_url
    return Markup("{}" if address is None else '<a href="{1}">{0}</a>').format(row.trial_id, address)


def _trial_html(row: StudyRow) -> Markup:
    addition = "addition to the 100" if row.is_addition else ""
    strategy = f"strategy {row.strategy}" if row.strategy != "plain" else ""
    front = f"Pareto front: {', '.join(each.replace('_', ' ') for each in row.fronts)}" if row.fronts else ""
    return noted(
        _linked(row), " · ".join(filter(None, (_overrides(row.overrides), strategy, addition, front, row.reason or "")))
    )


def _overrides(overrides: dict[str, object]) -> str:
    return ", ".join(f"{name.removeprefix('model.')} {value}" for name, value in overrides.items())


def _seeds_in_words(interval: Interval) -> str:
    if interval.low is None:
        return f"{interval.mean:.4f} (one seed)"
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


_CONFIG_COLUMNS: list[Column[ConfigGroup]] = [
    Column(title="architecture", text=lambda row: row.architecture, is_text=True),
    Column(title="config", text=lambda row: _overrides(row.overrides) or "the preset's", is_text=True),
    Column(title="strategy", text=lambda row: row.strategy, is_text=True),
    Column(title="seeds", text=lambda row: ", ".join(map(str, row.seeds)), is_text=True),
    Column(title="cosine over seeds", text=lambda row: _seeds_in_words(row.cosine), is_text=True),
    Column(title="best trial", text=lambda row: row.best_trial_id, is_text=True),
    Column(title="parameters", text=lambda row: size(row.num_params)),
    Column(title="training time", text=lambda row: duration(row.training_seconds)),
]
