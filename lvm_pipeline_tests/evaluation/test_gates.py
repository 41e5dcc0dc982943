import pytest

from lvm_pipeline.evaluation.gates import beats_best_baseline, threshold_findings, thresholds
from lvm_pipeline.findings import Severity
from lvm_pipeline.measures.uncertainty import Interval


@pytest.mark.parametrize(
    ("cosine", "viable", "production"),
    [(0.58, False, False), (0.71, True, False), (0.86, True, True), (0.7, False, False)],
)
def test_cosine_thresholds_of_the_request(cosine, viable, production):
    gates = thresholds(cosine=cosine, latency_p95_ms=1, training_seconds=1)

    assert (gates["minimum_viable_cosine"]["passed"], gates["production_cosine"]["passed"]) == (viable, production)
    assert gates["minimum_viable_cosine"]["value"] == cosine


def test_time_thresholds_of_the_request():
    gates = thresholds(cosine=0.5, latency_p95_ms=49.9, training_seconds=3600)

    assert gates["latency_ms"]["passed"]
    assert not gates["training_seconds"]["passed"]


def test_thresholds_warn_and_never_block():
    findings = threshold_findings(thresholds(cosine=0.1, latency_p95_ms=500, training_seconds=9999))

    assert [finding.passed for finding in findings] == [False] * 4
    assert {finding.severity for finding in findings} == {Severity.WARNING}
    assert findings[0].allowed == 0.7


@pytest.mark.parametrize(
    ("gain", "passed"),
    [
        (Interval(0.01, 0.002, 0.02), True),
        (Interval(0.01, -0.001, 0.02), False),
        (Interval(-0.01, -0.02, -0.001), False),
        (Interval(0.01, None, None), False),
    ],
)
def test_a_gain_counts_when_its_lower_bound_is_above_zero(gain, passed):
    finding = beats_best_baseline("ridge", gain, num_articles=1)

    assert finding.passed is passed
    assert finding.severity is Severity.WARNING
    assert "ridge" in finding.message
