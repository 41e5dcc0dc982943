"""All models and baselines on the same targets, by cosine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.glossary import DESPITE_A_GAIN
from lvm_pipeline.evaluation.ranking_scores import RankingScores
from lvm_pipeline.evaluation.report import Counts, EvaluationReport, OtherGains, is_lower
from lvm_pipeline.evaluation.standing_scores import StandingScores
from lvm_pipeline.evaluation.stored import adapter_of
from lvm_pipeline.measures.baselines import READ_AS_MUCH_AS_THE_MODEL
from lvm_pipeline.measures.retrieval import CONTEXT_ROWS, EARLIER_ROWS, Exclusion
from lvm_pipeline.measures.scores import MeanScores
from lvm_pipeline.measures.targets import ContextMode
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.sequences.schema import Split
from lvm_pipeline.words import counted

LEADERBOARD_VERSION = 2
THRESHOLDS = {  # invariant -> heading of its column
    "cosine_is_above_minimum_viable": "cosine, minimum viable: above {:g}",
    "cosine_is_above_production": "cosine, production: above {:g}",
    "text_accuracy_is_above_minimum_viable": "text accuracy, minimum viable: above {:g}",
    "text_accuracy_is_above_production": "text accuracy, production: above {:g}",
    "inference_takes_under_50_ms": "latency p95 in ms: below {:g}",
    "training_takes_under_an_hour": "training in seconds: below {:g}",
}


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A measured value, the threshold of the project, and whether it is met."""

    observed: float | None
    allowed: float | None
    passed: bool


@dataclass(frozen=True, kw_only=True)
class ModelRow(MeanScores):
    """One model; `warnings` are the invariants that did not pass, `gain` is over `best_baseline`."""

    kind: Literal["model"] = "model"
    name: str
    trial_id: str | None
    architecture: str
    preset: str
    num_params: int
    model_fingerprint: str
    context_mode: ContextMode
    context_length: int
    best_baseline: str
    gain: Interval
    other_gains: OtherGains | None = None
    latency_p50_ms: float
    seed: int
    thresholds: dict[str, Threshold]
    warnings: tuple[str, ...]
    not_checked: tuple[str, ...]
    is_leaking: bool
    leak_reason: str | None
    is_champion: bool
    ranking: RankingScores | None = None
    standing: StandingScores | None = None


@dataclass(frozen=True, kw_only=True)
class BaselineRow(MeanScores):
    """One baseline; `is_best` if it is the best one for any of the models."""

    kind: Literal["baseline"] = "baseline"
    name: str
    fitted: dict[str, float]
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A report that cannot be compared with the others."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Models and baselines that were scored on the same targets and pool."""

    leaderboard_version: int = LEADERBOARD_VERSION
    fingerprint: str  # of the sequence table
    split: Split
    space_id: str
    dataset_source: str
    context_length: int
    counts: Counts
    pool_size: int
    pool_fingerprint: str
    exclusion: Exclusion  # rule for retrieval that excludes whatever any of the models reads
    rows: tuple[ModelRow | BaselineRow, ...]  # models and baselines, highest cosine first
    decision_reason: str | None  # what the champion rule decided last on these sequences
    left_out: tuple[LeftOut, ...]  # reports that were not ranked

    @property
    def models(self) -> list[ModelRow]:
        return [row for row in self.rows if isinstance(row, ModelRow)]

    @property
    def champion(self) -> str | None:
        """Name of the champion, if it is among the models."""
        return next((row.name for row in self.models if row.is_champion), None)

    @property
    def leak_reason(self) -> str | None:
        """Why scores leak, if those of any model do."""
        return next((row.leak_reason or "" for row in self.models if row.is_leaking), None)

    @property
    def not_checked(self) -> list[str]:
        """What no report covers, each sentence once."""
        return list(dict.fromkeys(sentence for row in self.models for sentence in row.not_checked))

    def as_json(self) -> dict[str, Any]:
        return adapter_of(Leaderboard).dump_python(self, mode="json")


def leaderboard(
    reports: Sequence[EvaluationReport],
    *,
    fingerprint: str | None = None,
    champion_fingerprint: str | None = None,
    decision_reason: str | None = None,
    unreadable: Sequence[LeftOut] = (),
) -> Leaderboard:
    """Rank the models of several reports and their baselines.

    Reports of other sequences, splits or pools are left out, since their figures cannot be compared.

    Args:
        fingerprint: Sequence table to rank on; None: that of most reports, the last of equals.
        champion_fingerprint: `model_fingerprint` of the champion, which is marked.
        decision_reason: What the champion rule decided last.
        unreadable: Reports that cannot be read; they are named first among those left out.

    Raises:
        LvmError: If no report can be ranked.
    """
    chosen, left_out = _comparable(reports, fingerprint)
    if not chosen:
        wanted = f" on sequences {fingerprint[:12]}" if fingerprint else ""
        broken = "".join(f" {each.name}: {each.reason}." for each in unreadable)
        raise LvmError(
            f"There is no report{wanted} to rank; evaluate a model with `lvm run` or `lvm evaluate`.{broken}"
        )
    first = chosen[0]
    rows = [*(_model_row(report, champion_fingerprint) for report in chosen), *_baseline_rows(chosen)]
    return Leaderboard(
        fingerprint=first.fingerprint,
        split=first.split,
        space_id=first.space_id,
        dataset_source=first.dataset_source,
        context_length=first.context_length,
        counts=first.counts,
        pool_size=first.pool.size,
        pool_fingerprint=first.pool.fingerprint,
        exclusion=EARLIER_ROWS if any(report.context_mode == "articles" for report in chosen) else CONTEXT_ROWS,
        rows=tuple(sorted(rows, key=lambda row: (-row.cosine, row.kind, row.name))),
        decision_reason=decision_reason,
        left_out=(*unreadable, *left_out),
    )


def read_leaderboard(path: Path) -> Leaderboard:
    try:
        return adapter_of(Leaderboard).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise LvmError(f"{path} is not a readable leaderboard; make it again with `lvm leaderboard`.") from None


def headline(board: Leaderboard) -> str:
    """Say how many models beat the best baseline, or that one article cannot show it."""
    winners = [row for row in board.models if row.gain.is_above_zero]
    where = (
        f"on {counted(board.counts.targets, 'target')} of {counted(board.counts.articles, f'{board.split} article')}"
    )
    beat = counted(len(board.models), "model beats", "models beat")
    unknown = " One article gives no intervals." if any(row.gain.low is None for row in board.models) else ""
    return f"{len(winners)} of {beat} the best baseline in cosine {where}.{unknown}"


def cautions(board: Leaderboard) -> list[str]:
    """Say how many of the models that beat their best baseline in cosine are below it in another measure."""
    winners = [(row, _baseline_of(row, board)) for row in board.models if row.gain.is_above_zero]
    rule = board.exclusion
    below = {
        "centred cosine": sum(
            is_lower(row.centred_cosine, base.centred_cosine, row.other_gains and row.other_gains.centred_cosine)
            for row, base in winners
        ),
        "MRR": sum(
            is_lower(row.retrieval[rule].mrr, base.retrieval[rule].mrr, row.other_gains and row.other_gains.mrr[rule])
            for row, base in winners
        ),
    }
    return [
        f"{number} of {len(winners)} {'is' if number == 1 else 'are'} below that baseline in {name}: "
        f"{DESPITE_A_GAIN[name]}."
        for name, number in below.items()
        if number
    ]


def _baseline_of(model: ModelRow, board: Leaderboard) -> BaselineRow:
    names = {model.best_baseline, f"{model.best_baseline} ({model.context_mode})"}
    return next(row for row in board.rows if isinstance(row, BaselineRow) and row.name in names)


def _comparable(
    reports: Sequence[EvaluationReport], fingerprint: str | None
) -> tuple[list[EvaluationReport], list[LeftOut]]:
    if not reports:
        return [], []
    numbers = Counter(report.fingerprint for report in reports)
    wanted = fingerprint or max(reversed(numbers), key=lambda name: numbers[name])
    same_data = [report for report in reports if report.fingerprint == wanted]
    split = Counter(report.split for report in same_data).most_common(1)[0][0] if same_data else None
    pools = Counter(report.pool.fingerprint for report in same_data if report.split == split)
    pool = pools.most_common(1)[0][0] if pools else None
    reasons = [_why_left_out(report, wanted, split, pool) for report in reports]
    pairs = list(zip(reports, reasons, strict=True))
    return [report for report, reason in pairs if reason is None], [
        LeftOut(name=report.name, reason=reason) for report, reason in pairs if reason
    ]


def _why_left_out(report: EvaluationReport, fingerprint: str, split: str | None, pool: str | None) -> str | None:
    if report.fingerprint != fingerprint:
        return f"scored on other sequences ({report.fingerprint[:12]})"
    if report.split != split:
        return f"scored on the {report.split} split"
    if report.pool.fingerprint != pool:
        return f"scored with another pool ({report.pool.size:,} concepts, {report.pool.fingerprint[:12]})"
    return None


def _model_row(report: EvaluationReport, champion_fingerprint: str | None) -> ModelRow:
    shared = ModelRow.__dataclass_fields__.keys() & vars(report).keys()
    return ModelRow(
        **{name: getattr(report, name) for name in shared - {"seed"}},
        gain=report.gain,
        latency_p50_ms=report.latency_ms.p50,
        seed=report.training.seed,
        thresholds={
            finding.name: Threshold(observed=finding.observed, allowed=finding.allowed, passed=finding.passed)
            for finding in report.findings
            if finding.name in THRESHOLDS and finding.was_checked
        },
        warnings=tuple(dict.fromkeys(finding.name for finding in report.all_findings if not finding.passed)),
        is_champion=champion_fingerprint is not None and report.model_fingerprint == champion_fingerprint,
    )


def _baseline_rows(reports: Sequence[EvaluationReport]) -> list[BaselineRow]:
    """Return one row for each baseline; for one that reads as much as the models, one for each context mode."""
    found: dict[tuple[str, str], list[EvaluationReport]] = {}
    for report in reports:
        for name in report.baselines:
            found.setdefault((name, report.context_mode if name in READ_AS_MUCH_AS_THE_MODEL else ""), []).append(
                report
            )
    num_modes = Counter(name for name, _ in found)
    return [
        BaselineRow(
            **{measure: getattr(same[0].baselines[name], measure) for measure in MeanScores.__dataclass_fields__},
            name=name if num_modes[name] == 1 else f"{name} ({mode})",
            fitted=same[0].baselines[name].fitted,
            is_best=any(report.best_baseline == name for report in same),
        )
        for (name, mode), same in found.items()
    ]
