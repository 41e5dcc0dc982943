"""The scores of texts that go into the tracked run of a trial, beside those that its training reported."""

from lvm_pipeline.evaluation.report import EvaluationReport
from lvm_pipeline.evaluation.smoothing import SmoothingScores
from lvm_pipeline.evaluation.text_scores import TextScores

MEASURES = ("token_f1", "bleu", "rouge_l", "exact_match", "round_trip_cosine", "target_cosine", "second_cosine")


def tracked_scores(report: EvaluationReport) -> dict[str, float]:
    """Return the text scores of a report by the names of their metrics; empty where nothing was decoded."""
    found: dict[str, float | None] = {}
    if isinstance(report.text, TextScores):
        found |= _text(report.text)
    if isinstance(report.smoothing, SmoothingScores):
        found |= _smoothing(report.smoothing)
    return {name: float(value) for name, value in found.items() if value is not None}


def _text(text: TextScores) -> dict[str, float | None]:
    scores = text.preferred_scores
    return {
        "text_accuracy": text.accuracy,
        "text_accuracy_ceiling": scores.ceiling.token_f1,
        "text_accuracy_floor": scores.floor.token_f1,
        **{f"text_{name}": getattr(scores.prediction, name) for name in MEASURES},
        **{f"text_accuracy_{each.name.replace(' ', '_')}": each.prediction.token_f1 for each in text.decoders},
    }


def _smoothing(smoothing: SmoothingScores) -> dict[str, float | None]:
    smoothed = next(arm for arm in smoothing.arms if arm.name == "smoothed")
    gains = {"control": smoothing.gain_over_control, "decoded": smoothing.gain_over_decoded}
    return {
        "smoothing_texts": smoothed.num_texts,
        "smoothing_guards_hold": smoothed.holds,
        "smoothing_target_cosine": None if smoothed.cosine_to_target is None else smoothed.cosine_to_target.mean,
        **{f"smoothing_gain_over_{name}": None if gain is None else gain.mean for name, gain in gains.items()},
    }
