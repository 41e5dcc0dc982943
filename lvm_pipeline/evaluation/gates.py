"""Invariants of an evaluation report: the project's thresholds and the gain over the best baseline."""

from typing import TYPE_CHECKING

from lvm_pipeline.findings import Finding, Invariant, Severity, invariant
from lvm_pipeline.measures.retrieval import pool_is_declared_and_clean
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.training.invariants import (
    checkpoint_reproduces_its_score,
    prediction_is_not_the_mean_vector,
    training_takes_under_an_hour,
)
from lvm_pipeline.words import counted

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.text_scores import TextScores

MINIMUM_VIABLE_COSINE = 0.70
PRODUCTION_COSINE = 0.85
MINIMUM_VIABLE_TEXT_ACCURACY = 0.50
PRODUCTION_TEXT_ACCURACY = 0.75
LONGEST_LATENCY_MS = 50.0
JUDGE_BY_GAIN = "Judge the model by its gain over the best baseline."
JUDGE_BY_CEILING = "See in the report what the decoder reaches on true vectors: a model cannot do better with it."


def invariants() -> tuple[Invariant, ...]:
    """Return the invariants of an evaluation report, in the order in which they are reported."""
    return (
        pool_is_declared_and_clean,
        checkpoint_reproduces_its_score,
        prediction_is_not_the_mean_vector,
        beats_best_baseline,
        cosine_is_above_minimum_viable,
        cosine_is_above_production,
        text_accuracy_is_above_minimum_viable,
        text_accuracy_is_above_production,
        inference_takes_under_50_ms,
        training_takes_under_an_hour,
    )


@invariant(
    severity=Severity.WARNING,
    remedy="Keep the champion. Train longer or on more articles, or try another architecture or preset.",
)
def beats_best_baseline(baseline: str, gain: Interval, *, num_articles: int) -> Finding:
    """The model's mean cosine is above that of the best baseline on the same targets.

    The lower end of the 95 % confidence interval of the gain (article-level bootstrap) must be above 0.
    """
    if gain.low is None or gain.high is None:
        interval = f"{gain.mean:+.4f}, without an interval: the targets come from {counted(num_articles, 'article')}"
    else:
        interval = (
            f"{gain.mean:+.4f}, 95 % CI {gain.low:+.4f} to {gain.high:+.4f} over {counted(num_articles, 'article')}"
        )
    return beats_best_baseline.finding(
        passed=gain.is_above_zero,
        message=f"gain in cosine over the best baseline, {baseline}: {interval}",
        observed=gain.low if gain.low is not None else gain.mean,
        allowed=0,
        details={"baseline": baseline, **gain.as_json()},
    )


@invariant(severity=Severity.WARNING, remedy=JUDGE_BY_GAIN)
def cosine_is_above_minimum_viable(cosine: float) -> Finding:
    """The mean cosine is above 0.70, the project's minimum.

    It was set for GTR-T5 vectors; on clean data no model has reached it there.
    """
    return _cosine(cosine_is_above_minimum_viable, cosine, MINIMUM_VIABLE_COSINE)


@invariant(severity=Severity.WARNING, remedy=JUDGE_BY_GAIN)
def cosine_is_above_production(cosine: float) -> Finding:
    """The mean cosine is above 0.85, the project's target for production.

    It was set for GTR-T5 vectors; on clean data no model has reached it there.
    """
    return _cosine(cosine_is_above_production, cosine, PRODUCTION_COSINE)


def _cosine(gate: Invariant, cosine: float, allowed: float) -> Finding:
    message = f"cosine {cosine:.4f}, required above {allowed:.2f}"
    return gate.finding(passed=cosine > allowed, message=message, observed=cosine, allowed=allowed)


@invariant(severity=Severity.WARNING, remedy=JUDGE_BY_CEILING)
def text_accuracy_is_above_minimum_viable(text: "TextScores | None") -> Finding:
    """The mean token F1 of decoded predictions and true texts is above 0.50, the project's minimum.

    The preferred decoder of the report is judged by its absolute score.
    """
    return _text_accuracy(text_accuracy_is_above_minimum_viable, text, MINIMUM_VIABLE_TEXT_ACCURACY)


@invariant(severity=Severity.WARNING, remedy=JUDGE_BY_CEILING)
def text_accuracy_is_above_production(text: "TextScores | None") -> Finding:
    """The mean token F1 of decoded predictions and true texts is above 0.75, the project's target for production.

    The preferred decoder of the report is judged by its absolute score.
    """
    return _text_accuracy(text_accuracy_is_above_production, text, PRODUCTION_TEXT_ACCURACY)


def _text_accuracy(gate: Invariant, text: "TextScores | None", allowed: float) -> Finding:
    if text is None:
        return gate.not_checked("predictions were not decoded to text")
    scores = text.preferred_scores
    return gate.finding(
        passed=text.accuracy > allowed,
        message=f"token F1 {text.accuracy:.3f} with the decoder {text.preferred}, required above {allowed:.2f}; true "
        f"vectors reach {scores.ceiling.token_f1:.3f}, those of other targets {scores.floor.token_f1:.3f}",
        observed=text.accuracy,
        allowed=allowed,
    )


@invariant(
    severity=Severity.WARNING,
    remedy="Use a smaller preset or a GPU, and check that nothing else kept the machine busy.",
)
def inference_takes_under_50_ms(latency_p95_ms: float) -> Finding:
    """95 % of single predictions take less than 50 milliseconds."""
    return inference_takes_under_50_ms.finding(
        passed=latency_p95_ms < LONGEST_LATENCY_MS,
        message=f"95 % of predictions take at most {latency_p95_ms:.1f} ms, required below {LONGEST_LATENCY_MS:.0f} ms",
        observed=latency_p95_ms,
        allowed=LONGEST_LATENCY_MS,
    )
