"""What the command line shows: progress bars, findings, tables. Plain words, no logic."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lvm_pipeline.findings import Finding, Severity

UNITS = 1000  # steps of a bar
MAX_MESSAGE = 240  # characters of a finding on the screen


class Bar(Protocol):
    """Moves one bar to `done` of `total`; `note` is a few words beside it."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Show it."""
        ...


TaskMaker = Callable[[str], Bar]  # description -> its bar


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


def show_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Show findings, a line each, failures in colour and in full; the report has all details."""
    table = Table("result", "invariant", "what was found", box=None, padding=(0, 2, 0, 0))
    table.columns[1].no_wrap = True
    for finding in findings:
        message = finding.message if not finding.passed else finding.message.partition(":")[0]
        shown = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ... (all in the report)"
        table.add_row(_verdict(finding), finding.name, escape(shown))
    console.print(table)


def _verdict(finding: Finding) -> str:
    if not finding.was_checked:
        return "[dim]not checked[/]"
    if finding.passed:
        return "[green]passed[/]"
    return "[bold red]FAILED[/]" if finding.severity is Severity.BLOCKING else "[yellow]warning[/]"


def show_ingest(console: Console, report: Any) -> None:
    """Show what became of a file, duplicates and bad rows by name."""
    console.print(escape(report.sentence()), soft_wrap=True)
    for duplicate in report.duplicates[:10]:
        console.print(f"  [dim]left out:[/] {escape(str(duplicate))}", soft_wrap=True)
    for row in report.bad_rows[:10]:
        console.print(f"  [yellow]skipped:[/] {escape(str(row))}", soft_wrap=True)


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
    verdict = (
        "[green]Every blocking invariant holds.[/]" if verification.passed else "[bold red]Verification failed.[/]"
    )
    console.print(f"{verdict} Report: {verification.report_paths[1]}", soft_wrap=True)


def training_bar(bar: Bar) -> Callable[[Any], None]:
    """Return a callback for `training.loop.train` that moves a bar."""

    def show(report: Any) -> None:
        note = f"epoch {report.epoch}/{report.epochs}, {report.metric_name} {report.best_score:.4f}"
        bar(report.done_fraction, 1.0, note)

    return show


def show_trained(console: Console, trained: Any) -> None:
    """Show what a training reached and where the model is."""
    info = trained.info
    console.print(
        f"{info.architecture} {info.preset}, {info.num_params:,} parameters, {info.mode} mode: validation "
        f"{info.selection_metric} {info.score:.4f} (before training {info.start_score:.4f}) at epoch {info.best_epoch}, "
        f"{info.training_seconds:.0f} s on {info.trained_on}.",
        soft_wrap=True,
    )
    console.print(f"Trained model: {trained.path}", soft_wrap=True)
