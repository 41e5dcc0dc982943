"""What the command line shows: progress bars, findings, tables. Plain words, no logic."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lvm_pipeline.findings import Finding
from lvm_pipeline.runbook import remedy_of
from lvm_pipeline.settings import Settings

UNITS = 1000  # steps of a bar
MAX_MESSAGE = 240  # characters of a finding on the screen
MAX_SHOWN = 10  # duplicates or bad rows of a file


class Bar(Protocol):
    """Moves one bar to `done` of `total`; `note` is a few words beside it."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Show it."""
        ...


TaskMaker = Callable[[str], Bar]  # description -> its bar


def plain(*, quiet: bool = False) -> Console:
    """Return the console of a command; a quiet one shows nothing."""
    return Console(quiet=quiet, highlight=False)


def print_json(value: Any) -> None:
    """Print plain JSON values and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


class Bars:
    """One bar for each task; where output is no terminal, one line when a task ends."""

    def __init__(self, progress: Progress, console: Console):
        """Draw on a rich progress display."""
        self._progress = progress
        self._console = console

    def task(self, description: str) -> Bar:
        """Start a bar."""
        task_id = self._progress.add_task(escape(description), total=UNITS, note="")
        is_told = False

        def show(done: float, total: float, note: str = "") -> None:
            nonlocal is_told
            fraction = done / total if total else 1.0
            self._progress.update(task_id, completed=fraction * UNITS, note=escape(note))
            if fraction >= 1.0 and not is_told and not self._console.is_terminal:
                is_told = True
                self._console.print(f"{description}: done{f' ({note})' if note else ''}", markup=False)

        return show


@contextmanager
def progress_bars(console: Console) -> Iterator[Bars]:
    """Show progress bars on a console while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress, console)


def show_rows(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show rows of equal keys as a table."""
    if not rows:
        console.print("Nothing to show.")
        return
    table = Table(*rows[0].keys())
    for row in rows:
        table.add_row(*(escape(f"{value:,}" if type(value) is int else str(value)) for value in row.values()))
    console.print(table)


def write_lines(records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as lines of JSON, each as soon as it is there; ends quietly when nobody reads them any more."""
    try:
        for record in records:
            sys.stdout.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it


def show_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Show findings, a line each, failures in colour and in full; the report has all details."""
    table = Table("result", "invariant", "what was found", box=None, padding=(0, 2, 0, 0))
    table.columns[1].no_wrap = True
    for finding in findings:
        message = finding.message if finding.outcome != "passed" else finding.message.partition(":")[0]
        shown = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ... (all in the report)"
        table.add_row(VERDICTS[finding.outcome], finding.name, escape(shown))
    console.print(table)


VERDICTS = {
    "passed": "[green]passed[/]",
    "failed": "[bold red]FAILED[/]",
    "warning": "[yellow]warning[/]",
    "not checked": "[dim]not checked[/]",
}


def outcomes_in_words(outcomes: Sequence[str]) -> str:
    """Count outcomes: `16 of 18 invariants hold, 1 warning, 1 not checked`."""
    counts = Counter(outcomes)
    rest = [(counts["failed"], "failed"), (counts["warning"], "warning"), (counts["not checked"], "not checked")]
    told = [f"{count} {word}{'s' if word == 'warning' and count > 1 else ''}" for count, word in rest if count]
    return ", ".join([f"{counts['passed']} of {len(outcomes)} invariants hold", *told])


def show_diagnoses(console: Console, diagnoses: Sequence[Mapping[str, Any]]) -> None:
    """Show how everything around the pipeline is, a line each, with the fix below what is wrong."""
    styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    table = Table("", "", "", box=None, padding=(0, 2, 0, 0), show_header=False)
    counts = Counter(diagnosis["state"] for diagnosis in diagnoses)
    for diagnosis in diagnoses:
        state = diagnosis["state"]
        name = f"{diagnosis['area']}: {diagnosis['subject']}"
        table.add_row(f"[{styles[state]}]{state}[/]", name, escape(diagnosis["found"]))
        if diagnosis["fix"]:
            table.add_row("", "", f"[bold]Fix:[/] {escape(diagnosis['fix'])}")
    console.print(table)
    console.print(
        f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} checks without a finding."
    )


def show_ingest(console: Console, report: Any) -> None:
    """Show what became of a file, duplicates and bad rows by name."""
    console.print(escape(report.sentence()), soft_wrap=True)
    for words, ones in (("[dim]left out:[/]", report.duplicates), ("[yellow]skipped:[/]", report.bad_rows)):
        for one in ones[:MAX_SHOWN]:
            console.print(f"  {words} {escape(str(one))}", soft_wrap=True)
        if len(ones) > MAX_SHOWN:
            console.print(f"  {words} {len(ones) - MAX_SHOWN:,} more (all with --json)")


def show_verification(console: Console, verification: Any) -> None:
    """Show counts, findings and verdict, and where the verification report is."""
    concepts, sequences = verification.report.get("concepts"), verification.report.get("sequences")
    if concepts:
        console.print(
            f"{concepts['num_concepts']:,} concepts in {concepts['num_articles']:,} articles from "
            f"{concepts['num_source_rows']:,} source rows ({concepts['dataset_source']}), space {concepts['space_id']}",
            soft_wrap=True,
        )
    if sequences:
        splits = ", ".join(f"{name} {counts['num_sequences']:,}" for name, counts in sequences["splits"].items())
        console.print(f"{sequences['num_windows']:,} sequences ({splits})")
        if sequences["is_leaking"]:
            console.print(f"[bold red]LEAKING:[/] {escape(sequences['leak_reason'])}", soft_wrap=True)
    show_findings(console, verification.findings)
    for finding in verification.findings:
        if not finding.passed and (remedy := remedy_of(finding.name)):
            console.print(f"  [bold]{finding.name}, what to do:[/] {escape(remedy)}", soft_wrap=True)
    verdict = (
        "[green]Every blocking invariant holds.[/]" if verification.passed else "[bold red]Verification failed.[/]"
    )
    counts = outcomes_in_words([finding.outcome for finding in verification.findings])
    console.print(f"{verdict} {counts.capitalize()}. Report: {verification.report_paths[1]}", soft_wrap=True)


def show_drift(console: Console, drift: Any, report_path: Path) -> None:
    """Show how far the concepts are from the champion's, a line each check, and where the drift report is."""
    table = Table("result", "check", "observed", "allowed", "p", box=None, padding=(0, 2, 0, 0))
    for finding in drift.findings:
        numbers = (finding.observed, finding.allowed, finding.details.get("p_value_of_all_checks"))
        table.add_row(VERDICTS[finding.outcome], finding.name, *("" if n is None else f"{n:.3f}" for n in numbers))
    console.print(table)
    reasons = [finding.message for finding in drift.findings if not finding.passed]
    reasons = reasons or sorted({finding.message for finding in drift.findings if not finding.was_checked})
    for reason in reasons:
        console.print(f"  {escape(reason)}", soft_wrap=True)
    verdict = "[yellow]The concepts have drifted.[/]" if drift.has_drifted else "No drift was found."
    console.print(f"{verdict} Report: {report_path}", soft_wrap=True)


def training_bar(bar: Bar) -> Callable[[Any], None]:
    """Return a callback for `training.loop.train` that moves a bar."""

    def show(report: Any) -> None:
        bar(report.done_fraction, 1.0, report.in_words())

    return show


def show_trained(console: Console, trained: Any) -> None:
    """Show what a training reached and where the model is."""
    info = trained.info
    console.print(
        f"{info.architecture} {info.preset}, {info.num_params:,} parameters, {info.mode} mode: validation "
        f"{info.selection_metric} {info.score:.4f} (before training {info.start_score:.4f}), epoch {info.best_epoch}, "
        f"{info.training_seconds:.0f} s on {info.trained_on}.",
        soft_wrap=True,
    )
    console.print(f"Trained model: {trained.path}", soft_wrap=True)


def stage_bars(bars: Bars) -> Callable[[Any], None]:
    """Return a callback for stages that run in other processes: one bar for each stage and partition."""
    shown: dict[tuple[str, str | None], Bar] = {}

    def show(progress: Any) -> None:
        key = (progress.stage, progress.partition)
        if key not in shown:
            shown[key] = bars.task(" ".join(filter(None, key)))
        if progress.state == "failed":
            shown[key](progress.done_fraction * 0.999, 1.0, "failed")
        else:
            is_over = progress.state == "done"
            shown[key](1.0 if is_over else min(progress.done_fraction, 0.999), 1.0, progress.note)

    return show


def show_leaderboard(console: Console, board: Mapping[str, Any]) -> None:
    """Show models and baselines of one leaderboard, best cosine first, gains with their 95 % interval."""
    console.print(f"[bold]Leaderboard, {board['split']} split[/]")
    table = Table("", "name", "reads", "cosine", "gain over best baseline", "R@1", "R@10", box=None)
    table.padding = (0, 1, 0, 0)
    for column in table.columns:
        column.no_wrap = True
    for row in board["rows"]:
        is_model = row["kind"] == "model"
        retrieval, name = row["retrieval"], escape(row["name"])
        table.add_row(
            "*" if row.get("is_champion") else "",
            f"[bold]{name}[/]" if is_model else f"[dim]{name}[/]",
            _reads(row, board) if is_model else "",
            f"{row['cosine']:.4f}",
            _interval(row["gain_over_best_baseline"]) if is_model else "",
            *(f"{retrieval[measure]:.3f}" for measure in ("r_at_1", "r_at_10")),
        )
    console.print(table)
    console.print("[dim]* champion. Gains: cosine, paired on the same targets, whole articles resampled.[/]")
    for row in board["left_out"]:
        console.print(f"[yellow]left out:[/] {escape(row['name'])}, {escape(row['reason'])}", soft_wrap=True)
    open_ends = dict.fromkeys(sentence for row in board["rows"] for sentence in row.get("not_checked", ()))
    console.print("[dim]Not checked:[/] " + escape(" ".join(open_ends)), soft_wrap=True)
    if board["is_leaking"]:
        console.print(f"[bold red]LEAKING:[/] {escape(board['leak_reason'] or '')}", soft_wrap=True)


def _reads(row: Mapping[str, Any], board: Mapping[str, Any]) -> str:
    return "article" if row["context_mode"] == "articles" else str(board["context_length"])


def _interval(gain: Mapping[str, Any]) -> str:
    if gain["low"] is None:
        return f"{gain['mean']:+.4f} (one article)"
    return f"{gain['mean']:+.4f} \\[{gain['low']:+.4f}, {gain['high']:+.4f}]"


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    """Show the scores of one trained model beside the baselines, and the thresholds."""
    table = Table("predictor", "cosine", "R@1", "R@10", "MRR", "gain over it", box=SIMPLE_HEAD)
    rows = [(f"[bold]{report['architecture']} {report['preset']}[/]", report, "")]
    rows += [(name, found, _interval(found["gain"])) for name, found in report["baselines"].items()]
    for name, found, gain in sorted(rows, key=lambda row: -row[1]["cosine"]):
        retrieval = (f"{found['retrieval'][measure]:.3f}" for measure in ("r_at_1", "r_at_10", "mrr"))
        table.add_row(name, f"{found['cosine']:.4f}", *retrieval, gain)
    console.print(table)
    retrieval = report["retrieval"]
    console.print(f"Pool of {retrieval['pool_size']:,} concepts without {retrieval['exclusion'].replace('_', ' ')}.")
    show_findings(console, map(Finding.from_json, (*report["checked_before"], *report["findings"])))
    console.print("[dim]Not checked:[/] " + escape(" ".join(report["not_checked"])), soft_wrap=True)
    if report["is_leaking"]:
        console.print(f"[bold red]LEAKING:[/] {escape(report['leak_reason'])}", soft_wrap=True)


def show_results(console: Console, settings: Settings) -> None:
    """Show what a whole lineage led to: leaderboard, verification in short, champion, and where everything is."""
    reports = settings.reports_dir
    board = json.loads((reports / "leaderboard.json").read_text(encoding="utf-8"))
    verification = json.loads((reports / "verification.json").read_text(encoding="utf-8"))
    champion = json.loads((reports / "champion.json").read_text(encoding="utf-8"))
    show_leaderboard(console, board)
    console.print(escape(champion["decision"]["reason"]), soft_wrap=True)
    concepts, outcomes = verification["concepts"], [finding["outcome"] for finding in verification["findings"]]
    console.print(
        f"Verification: {concepts['num_concepts']:,} concepts in {concepts['num_articles']:,} articles "
        f"({concepts['dataset_source']}, space {concepts['space_id']}), {verification['sequences']['num_windows']:,} "
        f"sequences; {outcomes_in_words(outcomes)}.",
        soft_wrap=True,
    )
    for what, path in (("Leaderboard", "leaderboard.html"), ("Verification report", "verification.md")):
        console.print(f"{what}: {reports / path}", soft_wrap=True)
    for row in board["rows"]:
        if row["kind"] == "model":
            console.print(f"Report of {row['name']}: {reports / row['architecture'] / 'report.html'}", soft_wrap=True)
    console.print("Dagster web UI and MLflow UI: `make ui`.")
