"""The tables of a report and of the leaderboard, for pages, Dagster and the terminal alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from lvm_pipeline.evaluation import plots
from lvm_pipeline.evaluation.report import EvaluationReport
from lvm_pipeline.evaluation.report_parts import EnsembleScores, MemberScores, ResolutionScores
from lvm_pipeline.findings import Finding, Severity
from lvm_pipeline.measures.baselines import BASELINES
from lvm_pipeline.measures.retrieval import Exclusion, RetrievalScores
from lvm_pipeline.measures.scores import MeanScores
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.tables import RESULT, Column, Table, number

Row = TypeVar("Row")
MINUS, MSE_TITLE = "\u2212", "MSE \u00d7 1000"
RETRIEVAL_TITLES = ("name", "R@1", "R@5", "R@10", "MRR", "median rank")


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A row: the model, a baseline, or chance, which has only `retrieval`."""

    name: str
    kind: str = ""
    scores: MeanScores | None = None
    retrieval: RetrievalScores
    gain: Interval | None = None
    note: str = ""


def predictor_table(report: EvaluationReport, exclusion: Exclusion | None = None) -> Table[Predictor]:
    """Return the model beside the baselines, best cosine first, then chance; retrieval under one exclusion rule."""
    rule = exclusion or report.pool.exclusion
    rows = [Predictor(name=report.name, kind="model", scores=report, retrieval=report.retrieval[rule])]
    rows += [
        Predictor(
            name=name,
            kind="best" if name == report.best_baseline else "",
            scores=found,
            retrieval=found.retrieval[rule],
            gain=found.gain,
            note=baseline_in_words(name, found.fitted),
        )
        for name, found in report.baselines.items()
    ]
    rows.sort(key=lambda row: -(row.scores.cosine if row.scores else 0))
    rows.append(Predictor(name="chance", kind="chance", retrieval=report.pool.chance[rule]))
    gains = [row.gain for row in rows if row.gain]
    return Table(columns=[*_PREDICTOR_COLUMNS, _gain_column(gains)], rows=rows, kind=lambda row: row.kind)


def without_chance(table: Table[Predictor]) -> Table[Predictor]:
    """Leave out the row of random ranking, which has no cosine."""
    return Table(columns=table.columns, rows=[row for row in table.rows if row.scores], kind=table.kind)


def baseline_in_words(name: str, fitted: Mapping[str, float]) -> str:
    """Say what a baseline predicts, and what was fitted for it."""
    values = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in fitted.items())
    return " · ".join(filter(None, (BASELINES.get(name, ""), values)))


def noted(name: str | Markup, note: str) -> Markup:
    """Return a name with a line of explanation below it."""
    return Markup('{}<span class="what">{}</span>').format(name, note) if note else Markup("{}").format(name)


def signed(value: float | None, digits: int = 4) -> str:
    """Write a difference with its sign; a dash if there is none."""
    return "-" if value is None else f"{value:+.{digits}f}"


def interval_in_words(gain: Interval | None) -> str:
    """Write a mean with its 95 % interval."""
    if gain is None:
        return ""
    if gain.low is None:
        return f"{signed(gain.mean)} (one article)"
    return f"{signed(gain.mean)} [{signed(gain.low)}, {signed(gain.high)}]"


def interval_mark(gain: Interval, gains: Sequence[Interval]) -> Markup:
    """Draw an interval on a scale shared by `gains`, with its numbers."""
    drawing = Markup(plots.gain_mark(gain, gains))
    return Markup('<span class="gain">{}<span>{}</span></span>').format(
        drawing, interval_in_words(gain).replace("-", MINUS)
    )


def findings_table(findings: Iterable[Finding]) -> Table[Finding]:
    return Table(columns=_FINDING_COLUMNS, rows=list(findings))


def controls_table(report: EvaluationReport) -> Table[tuple[str, float | None, Interval | None]]:
    """Return the cosine with the model's own context and with others."""
    controls = report.controls
    rows: list[tuple[str, float | None, Interval | None]] = [("true context", controls.cosine, None)]
    for words, control in (
        ("same concepts, order shuffled", controls.order_shuffled),
        ("context of another article", controls.wrong_context),
    ):
        rows.append((words, control.cosine, control.loss) if control else (words, None, None))
    columns: list[Column[tuple[str, float | None, Interval | None]]] = [
        Column(title="context", text=lambda row: row[0], is_text=True),
        Column(title="cosine", text=lambda row: "not checked" if row[1] is None else f"{row[1]:.4f}"),
        Column(title="drop in cosine, 95 % interval", text=lambda row: interval_in_words(row[2]), is_text=True),
    ]
    return Table(columns=columns, rows=rows)


def member_table(ensemble: EnsembleScores) -> Table[MemberScores]:
    """Return one row per member of an ensemble, best first."""
    columns: list[Column[MemberScores]] = [
        Column(title="member", text=lambda row: row.trial_id, is_text=True),
        Column(title="reads", text=lambda row: row.mode, is_text=True),
        number("weight", lambda row: row.weight, ".3f"),
        number("cosine", lambda row: row.cosine),
        Column(title="gain of the ensemble", text=lambda row: interval_in_words(row.gain), is_text=True),
    ]
    return Table(columns=columns, rows=list(ensemble.members))


def resolution_table(resolutions: Sequence[ResolutionScores]) -> Table[ResolutionScores]:
    """Return one row per width that a model predicts at."""
    columns: list[Column[ResolutionScores]] = [
        number("width", lambda row: row.width, "d"),
        number("cosine", lambda row: row.cosine),
        number("full prediction at this width", lambda row: row.full_cosine),
    ]
    return Table(columns=columns, rows=list(resolutions))


def retrieval_columns(of: Callable[[Row], RetrievalScores]) -> list[Column[Row]]:
    return [
        number("R@1", lambda row: of(row).r_at_1, ".3f"),
        number("R@5", lambda row: of(row).r_at_5, ".3f"),
        number("R@10", lambda row: of(row).r_at_10, ".3f"),
        number("MRR", lambda row: of(row).mrr, ".3f"),
        number("median rank", lambda row: of(row).median_rank, "g"),
    ]


def _gain_column(gains: Sequence[Interval]) -> Column[Predictor]:
    return Column(
        title="gain of the model",
        text=lambda row: interval_in_words(row.gain),
        html=lambda row: interval_mark(row.gain, gains) if row.gain else Markup(),
        is_text=True,
    )


def _severity_in_words(finding: Finding) -> Markup:
    pill = Markup(' <span class="pill unsure">blocking</span>') if finding.severity is Severity.BLOCKING else Markup()
    return Markup("{}{}").format(finding.name.replace("_", " "), pill)


def _retrieval_of(row: Predictor) -> RetrievalScores:
    return row.retrieval


_PREDICTOR_COLUMNS: Sequence[Column[Predictor]] = (
    Column(title="predictor", text=lambda row: row.name, html=lambda row: noted(row.name, row.note), is_text=True),
    Column(title="name", text=lambda row: row.name, is_text=True),
    number("cosine", lambda row: row.scores and row.scores.cosine),
    number("centred cosine", lambda row: row.scores and row.scores.centred_cosine),
    number(MSE_TITLE, lambda row: row.scores and 1000 * row.scores.mse, ".3f"),
    number("L2", lambda row: row.scores and row.scores.l2, ".3f"),
    number("norm ratio", lambda row: row.scores and row.scores.norm_ratio, ".3f"),
    *retrieval_columns(_retrieval_of),
)
_FINDING_COLUMNS: Sequence[Column[Finding]] = (
    RESULT,
    Column(title="invariant", text=lambda row: row.name, html=_severity_in_words, is_text=True),
    Column(title="observed", text=lambda row: row.message, is_text=True),
)
