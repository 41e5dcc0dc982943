"""Every measure, baseline and control gives the value that can be worked out by hand; a broken one does not (F12)."""

import numpy as np
import pytest

from lvm_pipeline.measures import weighted_means
from lvm_pipeline.measures.metrics import spread_of
from lvm_pipeline.measures.retrieval import ranks_with_each
from lvm_pipeline.measures.uncertainty import paired_gain
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.training.invariants import LEAST_VARIANCE_SHARE, prediction_is_not_the_mean_vector
from lvm_pipeline_tests.measures.known_answers import context_mean_on_walk, known_answers, walk_vectors


@pytest.fixture(scope="module")
def answers():
    return known_answers()


def test_everything_gives_its_known_answer(answers):
    assert [answer for answer in answers if not answer.is_right()] == []


def test_the_answers_speak_of_every_measure_and_baseline(answers):
    answered = " ".join(answer.what for answer in answers)
    for name in ("cosine", "centred_cosine", "mse", "l2", "norm_ratio", "r_at_1", "mrr", "median_rank"):
        assert f"{name} " in answered
    for name in ("global_mean", "copy_last", "context_mean", "recency_weighted_mean", "ridge", "ridge_residual"):
        assert f"cosine of {name} on noise" in answered
    assert "cosine of article_mean_mix on topics" in answered


def test_the_walk_is_as_the_formula_supposes():
    vectors = walk_vectors()
    cosines = {lag: float((vectors[:-lag] * vectors[lag:]).sum(axis=1)[: 24 - lag].mean()) for lag in (1, 2)}
    assert cosines[1] == pytest.approx(0.9, abs=1e-5)
    assert cosines[2] == pytest.approx(0.81, abs=0.05)
    assert context_mean_on_walk(1) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("diagnostic", "wrong"),
    [
        ("lvm_pipeline.measures.baselines.decayed_means", "off by one"),
        ("lvm_pipeline.measures.metrics.cosines", "telescoping sum"),
        ("lvm_pipeline.measures.scores.ranks_with_each", "one candidate too many"),
        ("lvm_pipeline.evaluation.controls._of_other_articles", "the wrong context is the right one"),
    ],
)
def test_a_broken_diagnostic_gives_itself_away(diagnostic, wrong, monkeypatch):
    monkeypatch.setattr(diagnostic, BROKEN[wrong])

    assert [answer for answer in known_answers() if not answer.is_right()]


as_it_is = weighted_means.decayed_means


def _one_rank_too_many(*arguments):
    return [{rule: ranks + 1 for rule, ranks in found.items()} for found in ranks_with_each(*arguments)]


BROKEN = {
    "off by one": lambda vectors, first, last, *, decay: as_it_is(vectors, first - 1, last - 1, decay=decay),
    "telescoping sum": lambda left, right: np.full(len(left), (left[0] - right[-1]).sum(), np.float32),
    "one candidate too many": _one_rank_too_many,
    "the wrong context is the right one": lambda rows, articles, rng: rows,
}


def test_a_gain_of_nothing_has_an_interval_of_nothing():
    values = np.random.default_rng(1).standard_normal(60)
    gain = paired_gain(values, values, np.arange(60) // 6)
    assert (gain.mean, gain.low, gain.high) == (0, 0, 0)
    assert not gain.is_above_zero


@pytest.mark.parametrize(("shrink", "passed"), [(1.0, True), (0.4, True), (0.25, False), (0.0, False)])
def test_the_collapse_check_knows_how_much_is_left(shrink, passed):
    """Predictions that vary `shrink` times as far around a common direction have about its square of the variance."""
    rng = np.random.default_rng(2)
    mean = np.zeros(64, np.float32)
    mean[0] = 10.0
    around = rng.standard_normal((400, 64)).astype(np.float32)
    around[:, 0] = 0
    targets, predictions = unit_length(mean + around), unit_length(mean + np.float32(shrink) * around)

    finding = prediction_is_not_the_mean_vector(spread_of(predictions, targets, mean))

    around_one = 63 / (100 + 63)  # share of a target's length that lies beside the common direction
    expected = shrink**2 * 63 / (100 + shrink**2 * 63) / around_one
    assert finding.observed == pytest.approx(expected, abs=0.02)
    assert finding.passed is passed is (expected >= LEAST_VARIANCE_SHARE)
