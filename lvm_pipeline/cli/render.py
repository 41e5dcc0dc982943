"""Output of the command line: progress bars, findings, tables."""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.containers import Lines
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lvm_pipeline import tables
from lvm_pipeline.findings import Finding
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.space_ids import is_declared
from lvm_pipeline.words import counted

if TYPE_CHECKING:
    from lvm_pipeline.doctor import Diagnosis
    from lvm_pipeline.evaluation.leaderboard import Leaderboard
    from lvm_pipeline.evaluation.report import EvaluationReport

UNITS = 1000  # steps of a bar
SECONDS_BETWEEN_LINES = 60  # of progress, where there is no terminal
MAX_MESSAGE = 240  # characters of a finding on the screen
MARK_STYLES: Mapping[tables.Mark, str] = {"good": "green", "bad": "bold red", "warn": "yellow", "unsure": "dim", "": ""}
MAX_SHOWN = 10  # duplicates or bad rows of a file


class Bar(Protocol):
    """Moves one bar to `done` of `total`; `note` is shown beside it."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


def plain(*, quiet: bool = False, stderr: bool = False) -> Console:
    """Return the console of a command; a quiet one prints nothing."""
    return Console(quiet=quiet, stderr=stderr, highlight=False, emoji=False)


def say(console: Console, text: str) -> None:
    """Print a line as it is, without markup: paths and names may hold brackets."""
    console.print(text, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


class Bars:
    """One bar per task; if the output is not a terminal, a line once a minute and when a task ends."""

    def __init__(self, progress: Progress, console: Console):
        self._progress = progress
        self._console = console

    def task(self, description: str) -> Bar:
        task_id = self._progress.add_task(escape(description), total=UNITS, note="")
        is_done, said = False, time.monotonic()

        def show(done: float, total: float, note: str = "") -> None:
            nonlocal is_done, said
            fraction = done / total if total else 1.0
            self._progress.update(task_id, completed=fraction * UNITS, note=escape(note))
            is_due = fraction >= 1.0 or time.monotonic() - said >= SECONDS_BETWEEN_LINES
            if is_due and not is_done and not self._console.is_terminal:
                is_done, said = fraction >= 1.0, time.monotonic()
                state = "done" if is_done else f"{fraction:.0%}"
                self._console.print(f"{description}: {state}{f' ({note})' if note else ''}", markup=False)

        return show


@contextmanager
def progress_bars(console: Console) -> Iterator[Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress, console)


class _FoldedText(Text):
    """Text whose long names are folded after `-`, `_`, `/` or `.`, and not in the middle of a word."""

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        folded = re.sub(r"\S+", lambda match: _folded(match[0], width), self.plain)
        return Text(folded, style=self.style).wrap(console, width, **options)


def _folded(name: str, width: int) -> str:
    lines = [""]
    for part in re.findall(r"[^-_/.]*[-_/.]+|[^-_/.]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def show_table(
    console: Console,
    table: "tables.Table[Any]",
    *,
    title: str = "",
    has_head: bool = True,
    if_empty: str = "Nothing to show.",
) -> None:
    """Print a table; rows of models are bold, marked cells coloured."""
    if not table.rows:
        console.print(if_empty, soft_wrap=True)
        return
    grid = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=has_head)
    for column in table.columns:
        justify = "left" if column.is_text else "right"
        grid.add_column(column.title, justify=justify, no_wrap=not column.is_text, overflow="fold")
    for row in table.rows:
        cells = []
        for column in table.columns:
            style = MARK_STYLES[column.mark(row) if column.mark else ""]
            cells.append(_FoldedText(column.text(row), style=style))
        grid.add_row(*cells, style="bold" if table.kind(row) == "model" else "")
    console.print(grid)


def show_rows(console: Console, rows: Sequence[Mapping[str, Any]], *, if_empty: str = "Nothing to show.") -> None:
    """Print rows with equal keys as a table."""
    show_table(console, tables.table_of(rows), if_empty=if_empty)


def write_lines(records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON lines, flushing each; stops quietly when the pipe is closed."""
    try:
        for record in records:
            sys.stdout.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print one line per finding; messages of findings that passed are cut, since the report has them in full."""
    columns: list[tables.Column[Finding]] = [
        tables.RESULT,
        tables.Column(title="invariant", text=lambda row: row.name, is_text=True),
        tables.Column(title="observed", text=_short_message, is_text=True),
    ]
    show_table(console, tables.Table(columns=columns, rows=findings))


def _short_message(finding: Finding) -> str:
    message = finding.message if finding.outcome != "passed" else finding.message.partition(":")[0]
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ... (in full in the report)"


def outcomes_in_words(outcomes: Sequence[str]) -> str:
    """Count outcomes: `16 of 18 invariants hold, 1 warning, 1 not checked`."""
    counts = Counter(outcomes)
    rest = [(counts["failed"], "failed"), (counts["warning"], "warning"), (counts["not checked"], "not checked")]
    parts = [f"{count} {word}{'s' if word == 'warning' and count > 1 else ''}" for count, word in rest if count]
    return ", ".join([f"{counts['passed']} of {len(outcomes)} invariants hold", *parts])


def show_diagnoses(console: Console, diagnoses: Sequence["Diagnosis"]) -> None:
    """Print one line per diagnosis, with the fix below each problem."""
    marks: Mapping[str, tables.Mark] = {"ok": "good", "warning": "warn", "problem": "bad"}
    columns: list[tables.Column[Diagnosis]] = [
        tables.Column(title="state", text=lambda row: row.state, mark=lambda row: marks[row.state], is_text=True),
        tables.Column(title="subject", text=lambda row: f"{row.area}: {row.subject}", is_text=True),
        tables.Column(
            title="found", text=lambda row: row.found + (f"\nFix: {row.fix}" if row.fix else ""), is_text=True
        ),
    ]
    show_table(console, tables.Table(columns=columns, rows=diagnoses), has_head=False)
    counts = Counter(str(diagnosis.state) for diagnosis in diagnoses)
    console.print(
        f"{counted(counts['problem'], 'problem')}, {counted(counts['warning'], 'warning')}, "
        f"{counted(counts['ok'], 'check')} passed."
    )


def show_ingest(console: Console, report: Any) -> None:
    """Print how many concepts were loaded, and name the duplicates and bad rows."""
    say(console, report.sentence())
    listed = (("[dim]left out:[/]", report.duplicates), ("[yellow]skipped:[/]", report.bad_rows))
    for words, ones in (*listed, ("[yellow]gap closed:[/]", report.gaps)):
        for one in ones[:MAX_SHOWN]:
            console.print(f"  {words} {escape(str(one))}", soft_wrap=True)
        if len(ones) > MAX_SHOWN:
            console.print(f"  {words} {len(ones) - MAX_SHOWN:,} more (all with --json)")


def show_verification(console: Console, verification: Any) -> None:
    """Print counts, findings, the verdict and the path of the verification report."""
    concepts, sequences = verification.report.get("concepts"), verification.report.get("sequences")
    if concepts:
        say(
            console,
            f"{counted(concepts['num_concepts'], 'concept')} in {counted(concepts['num_articles'], 'article')} from "
            f"{counted(concepts['num_source_rows'], 'source row')} "
            f"({concepts['dataset_source']}), space {concepts['space_id']}",
        )
    if sequences:
        splits = ", ".join(f"{name} {counts['num_sequences']:,}" for name, counts in sequences["splits"].items())
        console.print(f"{counted(sequences['num_windows'], 'sequence')} ({splits})")
        if sequences["is_leaking"]:
            console.print(f"[bold red]LEAKING:[/] {escape(sequences['leak_reason'])}", soft_wrap=True)
    show_findings(console, verification.findings)
    for finding in verification.findings:
        if not finding.passed and finding.remedy:
            console.print(f"  [bold]{finding.name}, what to do:[/] {escape(finding.remedy)}", soft_wrap=True)
    verdict = "[green]No blocking invariant fails.[/]" if verification.passed else "[bold red]Verification failed.[/]"
    counts = outcomes_in_words([finding.outcome for finding in verification.findings])
    path = escape(str(verification.report_paths[1]))
    console.print(f"{verdict} {counts.capitalize()}. Report: {path}", soft_wrap=True)


def show_drift(console: Console, drift: Any, report_path: Path) -> None:
    """Print one line per drift check, the verdict and the path of the drift report."""
    from lvm_pipeline.concepts.drift.report import drift_table

    show_table(console, drift_table(drift).only("result", "check", "observed", "limit", "p"))
    reasons = [finding.message for finding in drift.findings if not finding.passed]
    reasons = reasons or sorted({finding.message for finding in drift.findings if not finding.was_checked})
    for reason in reasons:
        say(console, f"  {reason}")
    verdict = "[yellow]The concepts have drifted.[/]" if drift.has_drifted else "No drift was found."
    if not drift.was_compared:
        verdict = "[yellow]Drift was not checked.[/]"
    console.print(f"{verdict} Report: {escape(str(report_path))}", soft_wrap=True)


def four_digits(score: float) -> str:
    """Return a score with four significant digits; a mean squared error can be far below one."""
    return f"{score:#.4g}"


def show_trained(
    console: Console, info: Any, *, path: Path, problem: str | None = None, was_trained: bool = True
) -> None:
    if not was_trained:
        same = "is already trained with the same data, code and options"
        say(console, f"{info.trial_id} {same}; use --again to train it again.")
    say(
        console,
        f"{info.trial_id}: {info.num_params:,} parameters, {info.mode} mode, validation {info.selection_metric} "
        f"{four_digits(info.score)} (before training {four_digits(info.start_score)}) at epoch {info.best_epoch}; "
        f"{info.training_seconds:.0f} s on {info.trained_on}.",
    )
    if not is_declared(info.space_id):
        console.print(
            "[yellow]The vectors' encoder is not declared,[/] so this model cannot be scored on other concepts; to do "
            "that, set LVM_SPACE_ID and train again.",
            soft_wrap=True,
        )
    _say_where(console, path, problem)


def show_ensemble(
    console: Console, info: Any, *, path: Path, problem: str | None = None, was_made: bool = True
) -> None:
    if not was_made:
        say(console, f"{info.trial_id} already exists with the same members; use --again to rebuild it.")
    show_rows(
        console,
        [{"member": each.trial_id, "weight": each.weight, "cosine": each.score} for each in info.members],
    )
    say(
        console,
        f"{info.trial_id}: {info.num_params:,} parameters, {info.mode} mode, validation cosine {info.score:.4f} "
        f"({info.training['weights_chosen']}).",
    )
    _say_where(console, path, problem)


def _say_where(console: Console, path: Path, problem: str | None) -> None:
    say(console, f"Trained model: {path}")
    if problem is not None:
        console.print(f"[yellow]Not in MLflow yet:[/] {escape(problem)} The next training tries again.", soft_wrap=True)


def show_text_decoder(console: Console, decoder: Any) -> None:
    info = decoder.info
    if not decoder.was_trained:
        say(console, "It was trained before with the same data, code and options; use --again to train it again.")
    say(
        console,
        f"Text decoder for {info.space_id}: {info.num_params:,} parameters, {counted(info.num_steps, 'step')} on "
        f"{info.num_texts:,} train concepts in {info.seconds:.0f} s, loss {info.loss:.3f} per token.",
    )
    say(console, f"Decoder: {decoder.path}")


def stage_bars(bars: Bars) -> Callable[[Any], None]:
    """Return a callback for stages in other processes: one bar per stage and partition."""
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


def show_leaderboard(console: Console, board: "Leaderboard") -> None:
    from lvm_pipeline.evaluation.leaderboard_page import leaderboard_table

    titles = ("champion", "predictor", "reads", "cosine", "gain over the best baseline", "R@1", "R@10")
    show_table(console, leaderboard_table(board).only(*titles), title=f"Leaderboard, {board.split} split")
    console.print("[dim]Gain: difference in cosine on the same targets, with its 95 % interval over articles.[/]")
    for left_out in board.left_out:
        console.print(f"[yellow]not ranked:[/] {escape(left_out.name)}, {escape(left_out.reason)}", soft_wrap=True)
    _show_limits(console, board.not_checked, board.leak_reason)


def show_report(console: Console, report: "EvaluationReport") -> None:
    """Print the scores of one model beside the baselines, and all findings."""
    from lvm_pipeline.evaluation.pages import exclusion_in_words
    from lvm_pipeline.evaluation.report_tables import predictor_table

    titles = ("predictor", "cosine", "R@1", "R@10", "MRR", "gain of the model")
    show_table(console, predictor_table(report).only(*titles))
    pool = report.pool
    left_out = exclusion_in_words(pool.exclusion, context_length=report.context_length)
    counts = report.counts
    console.print(
        f"Scored on {counted(counts.targets, 'target')} of {counted(counts.articles, f'{report.split} article')}; the "
        f"baselines are fitted on {counted(counts.train_targets, 'target')} of "
        f"{counted(counts.train_articles, 'train article')}."
    )
    console.print(f"Retrieval pool: {counted(pool.size, 'concept')}, {left_out}.")
    if report.samples_in_words:
        console.print(report.samples_in_words)
    show_findings(console, report.all_findings)
    _show_limits(console, report.not_checked, (report.leak_reason or "") if report.is_leaking else None)


def _show_limits(console: Console, not_checked: Sequence[str], leak_reason: str | None) -> None:
    console.print("[dim]Not checked:[/] " + escape(" ".join(not_checked)), soft_wrap=True)
    if leak_reason is not None:
        console.print(f"[bold red]LEAKING:[/] {escape(leak_reason)}", soft_wrap=True)


def show_results(console: Console, settings: Settings) -> None:
    """Print the results of all stages: leaderboard, champion, verification and the paths of the reports."""
    from lvm_pipeline.evaluation.leaderboard import read_leaderboard

    reports = settings.reports_dir
    board = read_leaderboard(reports / "leaderboard.json")
    verification = json.loads((reports / "verification.json").read_text(encoding="utf-8"))
    champion = json.loads((reports / "champion.json").read_text(encoding="utf-8"))
    show_leaderboard(console, board)
    say(console, champion["decision"]["reason"])
    concepts, outcomes = verification["concepts"], [finding["outcome"] for finding in verification["findings"]]
    say(
        console,
        f"Verification: {counted(concepts['num_concepts'], 'concept')} "
        f"in {counted(concepts['num_articles'], 'article')} "
        f"({concepts['dataset_source']}, space {concepts['space_id']}), {verification['sequences']['num_windows']:,} "
        f"sequences; {outcomes_in_words(outcomes)}.",
    )
    for what, path in (("Leaderboard", "leaderboard.html"), ("Verification report", "verification.md")):
        say(console, f"{what}: {reports / path}")
    for row in board.models:
        own = settings.trials_dir / row.name
        latest = reports / row.architecture
        folder = latest if not own.is_dir() or latest.resolve() == own.resolve() else own
        say(console, f"Report of {row.name}: {folder / 'report.html'}")
    console.print("To start the Dagster and MLflow web UIs, run `lvm ui`; to stop the built-in Postgres, `lvm down`.")
