"""The section on smoothing: its table, sentences and examples."""

from dataclasses import dataclass

from lvm_pipeline.evaluation.not_run import NO_SMOOTHING, NotRun
from lvm_pipeline.evaluation.report_tables import interval_in_words
from lvm_pipeline.evaluation.smoothing import Arm, ArmScores, SmoothedExample, SmoothingScores
from lvm_pipeline.evaluation.smoothing_prompt import Prompt
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.tables import Column, Table, number

DECODED = "decoded prediction"
ARMS: dict[Prompt, dict[Arm, str]] = {
    "full": {
        "decoded": DECODED,
        "smoothed": "smoothed: context and decoded prediction",
        "control": "control: context alone",
    },
    "short": {
        "decoded": DECODED,
        "smoothed": "smoothed: decoded prediction, corrected",
        "control": "control: continuation of the last concept",
    },
}
HOW_WRITTEN: dict[Prompt, str] = {
    "full": "The control is written from the context alone.",
    "short": "The smoothed text is written from the decoded prediction alone, the control from the last concept alone.",
}
GAIN = "Gain of the smoothed text over the control in cosine to the target"


@dataclass(frozen=True, kw_only=True)
class SmoothingSection:
    """What a page shows; without a table if smoothing was not run."""

    not_run: str | None = None
    sentences: tuple[str, ...] = ()
    table: Table[ArmScores] | None = None
    examples: tuple[SmoothedExample, ...] = ()


def smoothing_section(scores: SmoothingScores | NotRun | None) -> SmoothingSection:
    """Return what a page shows of smoothed predictions."""
    if scores is None or isinstance(scores, NotRun):
        return SmoothingSection(not_run=(scores or NO_SMOOTHING).not_run)
    reason = scores.why_no_answers
    return SmoothingSection(
        not_run=None if reason is None else f"The language model {scores.language_model} gave no answer: {reason}.",
        sentences=tuple(smoothing_sentences(scores)),
        table=smoothing_table(scores),
        examples=scores.examples,
    )


def smoothing_table(scores: SmoothingScores) -> Table[ArmScores]:
    columns: list[Column[ArmScores]] = [
        Column(title="text", text=lambda row: ARMS[scores.prompt_name][row.name], is_text=True),
        number("texts", lambda row: row.num_texts, "d"),
        Column(title="failures", text=lambda row: _failures(row.failures), is_text=True),
        Column(title="cosine to the target", text=lambda row: _interval(row.cosine_to_target), is_text=True),
        Column(title="cosine to the prediction", text=lambda row: _interval(row.cosine_to_prediction), is_text=True),
        number("length ratio", lambda row: row.length_ratio, ".2f"),
        number("cites context", lambda row: row.cites_context, ".0%"),
        number("all guards hold", lambda row: row.holds, ".0%"),
    ]
    return Table(columns=columns, rows=list(scores.arms))


def smoothing_sentences(scores: SmoothingScores) -> list[str]:
    sentences = [HOW_WRITTEN[scores.prompt_name]]
    if scores.gain_over_control is not None:
        found = f"{interval_in_words(scores.gain_over_control)} (95 % interval)"
        if scores.prompt_name == "full":
            sentences.append(f"{GAIN}, which is what the prediction adds: {found}.")
        else:
            sentences.append(f"{GAIN}: {found}; it is not only the effect of the prediction.")
    if scores.gain_over_decoded is not None:
        sentences.append(f"Over the decoded text: {interval_in_words(scores.gain_over_decoded)}.")
    if not scores.has_encoder:
        sentences.append("The encoder of the vectors' space is not on this machine, so there are no cosines.")
    return sentences


def _interval(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.4f}" + ("" if found.low is None else f" [{found.low:.4f}, {found.high:.4f}]")


def _failures(failures: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items()))
