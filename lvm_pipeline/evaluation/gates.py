"""The request's thresholds, and the invariants of a report."""

from typing import Any

from lvm_pipeline.findings import Finding, Severity
from lvm_pipeline.measures.uncertainty import Interval

MINIMUM_VIABLE_COSINE = 0.70
PRODUCTION_COSINE = 0.85
LONGEST_LATENCY_MS = 50.0
LONGEST_TRAINING_SECONDS = 3600.0


def thresholds(*, cosine: float, latency_p95_ms: float, training_seconds: float) -> dict[str, dict[str, Any]]:
    """Hold the measured values to the request's thresholds; each is passed or failed, none is an assertion."""
    return {
        "minimum_viable_cosine": _gate(cosine, MINIMUM_VIABLE_COSINE, "above", "cosine, minimum viable"),
        "production_cosine": _gate(cosine, PRODUCTION_COSINE, "above", "cosine, production"),
        "latency_ms": _gate(latency_p95_ms, LONGEST_LATENCY_MS, "below", "one prediction (p95), milliseconds"),
        "training_seconds": _gate(training_seconds, LONGEST_TRAINING_SECONDS, "below", "training, seconds"),
    }


def _gate(value: float, threshold: float, rule: str, what: str) -> dict[str, Any]:
    passed = value > threshold if rule == "above" else value < threshold
    return {"what": what, "value": value, "rule": rule, "threshold": threshold, "passed": bool(passed)}


def threshold_findings(gates: dict[str, dict[str, Any]]) -> list[Finding]:
    """Return each threshold as a warning that passed or failed."""
    statements = {
        "minimum_viable_cosine": "cosine_is_above_minimum_viable",
        "production_cosine": "cosine_is_above_production",
        "latency_ms": "inference_takes_under_50_ms",
        "training_seconds": "training_takes_under_an_hour",
    }
    return [
        Finding(
            name=statements[name],
            passed=gate["passed"],
            severity=Severity.WARNING,
            message=f"{gate['what']}: {gate['value']:.4g}, to be {gate['rule']} {gate['threshold']:g}.",
            observed=gate["value"],
            allowed=gate["threshold"],
        )
        for name, gate in gates.items()
    ]


def beats_best_baseline(baseline: str, gain: Interval, *, num_articles: int) -> Finding:
    """The lower bound of the paired gain over the best baseline is above zero (F10); a warning."""
    if gain.low is None or gain.high is None:
        told = f"{gain.mean:+.4f}, without an interval: the targets come from {num_articles} article"
    else:
        told = f"{gain.mean:+.4f}, 95 % interval {gain.low:+.4f} to {gain.high:+.4f} over {num_articles} articles"
    return Finding(
        name="beats_best_baseline",
        passed=gain.is_above_zero,
        severity=Severity.WARNING,
        message=f"Gain in cosine over {baseline}, the best baseline: {told}.",
        observed=gain.low if gain.low is not None else gain.mean,
        allowed=0.0,
        details={"baseline": baseline, **gain.as_json()},
    )
