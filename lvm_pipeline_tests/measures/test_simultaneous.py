"""Intervals that hold for many predictors at once, shown on noise."""

import numpy as np
import pytest

from lvm_pipeline.measures import uncertainty
from lvm_pipeline.measures.uncertainty import article_sums, paired_gain, simultaneous_intervals

NUM_TRIALS, NUM_SIMULATIONS = 105, 100


def equal_trials(seed, *, num_articles):
    """Sums of the gains of 105 trials that are all worth nothing, alike as trials of one data set are."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 60, num_articles).astype(float)
    shared = rng.normal(0, 0.004, num_articles)
    own = rng.normal(0, 0.004, (NUM_TRIALS, num_articles)) * rng.uniform(0.5, 2, (NUM_TRIALS, 1))
    return (shared + own) * counts, counts


@pytest.mark.parametrize("num_articles", [24, 48])
def test_the_best_of_105_equal_trials_is_above_zero_in_at_most_5_of_100_simulations(num_articles, monkeypatch):
    monkeypatch.setattr(uncertainty, "NUM_RESAMPLES", 1000)
    promoted = plainly_promoted = 0
    for seed in range(NUM_SIMULATIONS):
        sums, counts = equal_trials(seed, num_articles=num_articles)
        best = int(np.argmax(sums.sum(axis=1)))
        promoted += simultaneous_intervals(sums, counts, seed=seed)[best].is_above_zero
        plainly_promoted += simultaneous_intervals(sums[best], counts, seed=seed)[0].is_above_zero

    assert promoted <= 5
    assert plainly_promoted >= 40, "without the correction, most of the best would seem better"


def test_a_real_gain_is_found_among_104_trials_of_noise():
    sums, counts = equal_trials(7, num_articles=120)
    sums[3] += 0.006 * counts

    found = simultaneous_intervals(sums, counts)

    assert [number for number, interval in enumerate(found) if interval.is_above_zero] == [3]


def test_one_predictor_has_its_plain_interval():
    rng = np.random.default_rng(1)
    articles = np.repeat(np.arange(30), 7)
    values, base = rng.normal(0.5, 0.1, 210), rng.normal(0.45, 0.1, 210)

    sums, counts = article_sums(values - base, articles)
    (alone,) = simultaneous_intervals(sums, counts)
    plain = paired_gain(values, base, articles)

    assert (alone.mean, alone.low, alone.high) == pytest.approx((plain.mean, plain.low, plain.high))


def test_copies_of_one_predictor_are_one_candidate():
    """The width follows how much the candidates differ, not how many there are: Bonferroni would widen it."""
    sums, counts = equal_trials(2, num_articles=60)

    many = simultaneous_intervals(np.repeat(sums[:1], 100, axis=0), counts)
    few = simultaneous_intervals(np.repeat(sums[:1], 2, axis=0), counts)

    assert many[0].low == pytest.approx(few[0].low)


def test_too_few_articles_give_no_bounds():
    assert simultaneous_intervals([[1.0], [2.0]], [4.0])[1].low is None
    assert simultaneous_intervals([[1.0, 2.0], [2.0, 0.5]], [4.0, 3.0])[0].low is None
    with pytest.raises(ValueError, match="one sum for each"):
        simultaneous_intervals([[1.0, 2.0]], [1.0])
