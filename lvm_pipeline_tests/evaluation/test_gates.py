import pytest

from lvm_pipeline.evaluation.gates import (
    beats_best_baseline,
    cosine_is_above_minimum_viable,
    cosine_is_above_production,
    inference_takes_under_50_ms,
)
from lvm_pipeline.findings import Severity
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.training.invariants import training_takes_under_an_hour


@pytest.mark.parametrize(
    ("cosine", "viable", "production"),
    [(0.58, False, False), (0.71, True, False), (0.86, True, True), (0.7, False, False)],
)
def test_cosine_thresholds_of_the_request(cosine, viable, production):
    findings = cosine_is_above_minimum_viable(cosine), cosine_is_above_production(cosine)

    assert [finding.passed for finding in findings] == [viable, production]
    assert [finding.observed for finding in findings] == [cosine, cosine]
    assert [finding.allowed for finding in findings] == [0.7, 0.85]


def test_time_thresholds_of_the_request():
    assert [inference_takes_under_50_ms(ms).passed for ms in (49.9, 50.0)] == [True, False]
    assert [training_takes_under_an_hour(seconds).passed for seconds in (3599, 3600)] == [True, False]


def test_thresholds_warn_and_never_block():
    findings = [cosine_is_above_minimum_viable(0.1), cosine_is_above_production(0.1), inference_takes_under_50_ms(500)]

    assert [finding.passed for finding in findings] == [False] * 3
    assert {finding.severity for finding in findings} == {Severity.WARNING}


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
