"""Invariants of an evaluation report: the project's thresholds and the gain over the best baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lvm_pipeline.findings import Finding, Invariant, Severity, invariant
from lvm_pipeline.measures.retrieval import pool_is_declared_and_clean
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.training.invariants import (
    LONGEST_TRAINING_SECONDS,
    checkpoint_reproduces_its_score,
    prediction_is_not_the_mean_vector,
    training_takes_under_an_hour,
)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A limit for one measured value. Missing it is a warning."""

    invariant: Invariant
    what: str
    rule: Literal["above", "below"]
    limit: float


THRESHOLDS = {
    "minimum_viable_cosine": Threshold(
        invariant=Invariant(
            name="cosine_is_above_minimum_viable",
            severity=Severity.WARNING,
            meaning="The mean cosine is above 0.70, the project's minimum. It was set for GTR-T5 vectors; on clean "
            "data no model has reached it there.",
            remedy="Judge the model by its gain over the best baseline.",
        ),
        what="cosine, minimum viable",
        rule="above",
        limit=0.70,
    ),
    "production_cosine": Threshold(
        invariant=Invariant(
            name="cosine_is_above_production",
            severity=Severity.WARNING,
            meaning="The mean cosine is above 0.85, the project's target for production. It was set for GTR-T5 "
            "vectors; on clean data no model has reached it there.",
            remedy="Judge the model by its gain over the best baseline.",
        ),
        what="cosine, production",
        rule="above",
        limit=0.85,
    ),
    "latency_ms": Threshold(
        invariant=Invariant(
            name="inference_takes_under_50_ms",
            severity=Severity.WARNING,
            meaning="95 % of single predictions take less than 50 milliseconds.",
            remedy="Use a smaller preset or a GPU, and check that nothing else kept the machine busy.",
        ),
        what="one prediction (p95), milliseconds",
        rule="below",
        limit=50.0,
    ),
    "training_seconds": Threshold(
        invariant=training_takes_under_an_hour,
        what="training, seconds",
        rule="below",
        limit=LONGEST_TRAINING_SECONDS,
    ),
}


def invariants() -> tuple[Invariant, ...]:
    """Return the invariants of an evaluation report, in the order in which they are reported."""
    return (
        pool_is_declared_and_clean,
        checkpoint_reproduces_its_score,
        prediction_is_not_the_mean_vector,
        beats_best_baseline,
        *(threshold.invariant for threshold in THRESHOLDS.values()),
    )


def thresholds(*, cosine: float, latency_p95_ms: float, training_seconds: float) -> dict[str, dict[str, Any]]:
    """Compare the measured values with the project's thresholds."""
    measured = {
        "minimum_viable_cosine": cosine,
        "production_cosine": cosine,
        "latency_ms": latency_p95_ms,
        "training_seconds": training_seconds,
    }
    return {name: _gate(threshold, measured[name]) for name, threshold in THRESHOLDS.items()}


def _gate(threshold: Threshold, value: float) -> dict[str, Any]:
    passed = value > threshold.limit if threshold.rule == "above" else value < threshold.limit
    gate = {"what": threshold.what, "value": value, "rule": threshold.rule, "threshold": threshold.limit}
    return {**gate, "passed": bool(passed)}


def threshold_findings(gates: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return each threshold as a finding, passed or a warning."""
    return [
        THRESHOLDS[name].invariant.finding(
            passed=gate["passed"],
            message=f"{gate['what']}: {gate['value']:.4g}, required {gate['rule']} {gate['threshold']:g}",
            observed=gate["value"],
            allowed=gate["threshold"],
        )
        for name, gate in gates.items()
    ]


@invariant(
    severity=Severity.WARNING,
    remedy="Keep the champion. Train longer or on more articles, or try another architecture or preset.",
)
def beats_best_baseline(baseline: str, gain: Interval, *, num_articles: int) -> Finding:
    """The model's mean cosine is above that of the best baseline on the same targets.

    The 95 % confidence interval of the gain comes from an article-level bootstrap.
    """
    if gain.low is None or gain.high is None:
        interval = f"{gain.mean:+.4f}, without an interval: the targets come from {num_articles} article"
    else:
        interval = f"{gain.mean:+.4f}, 95 % CI {gain.low:+.4f} to {gain.high:+.4f} over {num_articles} articles"
    return beats_best_baseline.finding(
        passed=gain.is_above_zero,
        message=f"gain in cosine over the best baseline, {baseline}: {interval}",
        observed=gain.low if gain.low is not None else gain.mean,
        allowed=0,
        details={"baseline": baseline, **gain.as_json()},
    )
