import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.measures import uncertainty
from lvm_pipeline.measures.uncertainty import Interval, article_difference, article_interval, paired_gain


def interval_by_hand(values, articles, num_resamples=4000, seed=5):
    """Draw articles one by one, put their rows side by side, take the mean."""
    rng = np.random.default_rng(seed)
    groups = [values[articles == article] for article in np.unique(articles)]
    means = [
        np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean()
        for _ in range(num_resamples)
    ]
    return np.quantile(means, [0.025, 0.975])


def test_interval_is_that_of_drawing_articles_by_hand():
    rng = np.random.default_rng(0)
    articles = np.repeat(np.arange(25), rng.integers(1, 30, 25))
    values = rng.standard_normal(25)[articles] + 0.3 * rng.standard_normal(len(articles))

    found = article_interval(values, articles)

    low, high = interval_by_hand(values, articles)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    articles = np.repeat(np.arange(40), 10)
    hits = 0
    for trial in range(200):
        values = rng.standard_normal(40)[articles] + rng.standard_normal(400)
        found = article_interval(values, articles, seed=trial)
        hits += found.low <= 0 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_intervals_by_article_are_wider_than_by_row_when_rows_of_an_article_are_alike():
    rng = np.random.default_rng(2)
    articles = np.repeat(np.arange(30), 40)
    values = rng.standard_normal(30)[articles]

    by_article = article_interval(values, articles)
    by_row = article_interval(values, np.arange(len(values)))

    assert (by_article.high - by_article.low) > 3 * (by_row.high - by_row.low)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.integers(2, 5))
def test_interval_holds_the_mean_of_equal_articles_and_is_repeatable(values, num_articles):
    articles = np.arange(len(values)) % num_articles

    found = article_interval(values, articles, seed=3)

    assert found == article_interval(values, articles, seed=3)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_the_kind_of_labels_and_the_order_of_rows_do_not_matter():
    values, articles = np.arange(12.0), np.repeat([1, 0, 2], 4)
    named, order = np.array(["a", "b", "c"])[articles], np.random.default_rng(0).permutation(12)

    assert article_interval(values[order], named[order]) == article_interval(values, articles)


def test_a_paired_gain_sees_what_two_intervals_hide():
    rng = np.random.default_rng(4)
    articles = np.repeat(np.arange(20), 20)
    difficulty = rng.standard_normal(20)[articles]
    base = difficulty + 0.01 * rng.standard_normal(400)

    gain = paired_gain(base + 0.05, base, articles)

    assert gain.is_above_zero
    assert gain.mean == pytest.approx(0.05)
    assert article_interval(base, articles).high - article_interval(base, articles).low > 0.3


def test_a_higher_level_gives_a_wider_interval_of_the_difference():
    rng = np.random.default_rng(7)
    articles = np.repeat(np.arange(200), 5)
    values, others = rng.standard_normal((2, 200))[:, articles]

    usual, wide = (article_difference(values, articles, others, articles, level=level) for level in (0.95, 0.99))

    assert usual == article_difference(values, articles, others, articles)
    assert wide.mean == usual.mean == pytest.approx(values.mean() - others.mean())
    assert wide.high - wide.low > 1.2 * (usual.high - usual.low)


@pytest.mark.parametrize("num_resamples", [700, 1200])
def test_intervals_of_cached_draws_are_those_of_new_ones(monkeypatch, num_resamples):
    monkeypatch.setattr(uncertainty, "NUM_RESAMPLES", num_resamples)
    values, articles = np.random.default_rng(6).standard_normal((2, 90))[0], np.arange(90) % 17
    cached = [article_interval(values, articles, seed=seed) for seed in (0, 1, 0)]

    monkeypatch.setattr(uncertainty, "MOST_CACHED_ARTICLES", 0)

    assert cached == [article_interval(values, articles, seed=seed) for seed in (0, 1, 0)]
    assert cached[0] != cached[1]


def test_one_article_has_a_mean_but_no_interval():
    found = article_interval([1.0, 3.0], ["a", "a"])

    assert (found.mean, found.low, found.high) == (2.0, None, None)
    assert not found.is_above_zero


def test_values_without_their_articles_are_refused():
    with pytest.raises(ValueError, match="one article for each target"):
        article_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="one article for each target"):
        article_interval([], [])


def test_a_gain_that_is_rounding_is_none():
    assert not Interval(1.6e-8, 1.5e-8, 1.7e-8).is_above_zero
    assert Interval(2e-4, 1e-4, 3e-4).is_above_zero
