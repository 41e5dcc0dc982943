import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.measures import weighted_means
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.weighted_means import (
    ArticleMix,
    article_mixes,
    best_step,
    decayed_means,
    fit_context_mix,
    fit_decay,
)


def contexts_of(lengths):
    """First row and target row of every position but the first of articles of these lengths."""
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.arange(sum(lengths))
    return firsts[rows > firsts], rows[rows > firsts]


def plain_mean(vectors, first, target, decay):
    weights = np.array([decay ** (target - 1 - row) for row in range(first, target)])
    return (weights[:, None] * vectors[first:target]).sum(axis=0) / weights.sum()


@given(
    st.lists(st.integers(2, 150), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.3, 0.85, 1.0]),
    st.integers(0, 2**31),
)
def test_decayed_means_equal_the_sum_written_out(lengths, decay, seed):
    vectors = np.random.default_rng(seed).standard_normal((sum(lengths), 3)).astype(np.float32)
    firsts, targets = contexts_of(np.array(lengths))

    means = decayed_means(vectors, firsts, targets, decay=decay)

    expected = [plain_mean(vectors, f, t, decay) for f, t in zip(firsts, targets, strict=True)]
    np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-5)


def test_rows_far_from_every_context_are_not_read():
    lengths = np.array([30, 200, 30, 500, 90])
    vectors = np.random.default_rng(4).standard_normal((sum(lengths), 3)).astype(np.float32)
    firsts, targets = contexts_of(lengths)
    is_read = np.isin(firsts, [0, 230, 760])
    vectors[30:230] = vectors[260:760] = np.nan  # 0 times NaN is NaN

    means = decayed_means(vectors, firsts[is_read], targets[is_read], decay=0.9)

    expected = [plain_mean(vectors, f, t, 0.9) for f, t in zip(firsts[is_read], targets[is_read], strict=True)]
    np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-5)


def test_article_mixes_add_the_weighted_mean():
    vectors = np.random.default_rng(0).standard_normal((90, 4)).astype(np.float32)
    firsts, targets = contexts_of(np.array([70, 20]))

    mixes = article_mixes(vectors, firsts, targets, mix=ArticleMix(0.6, 0.7))

    expected = decayed_means(vectors, firsts, targets, decay=0.6) + 0.7 * decayed_means(
        vectors, firsts, targets, decay=1
    )
    np.testing.assert_allclose(mixes, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.4, 0.8, 1.0])
def test_fit_decay_finds_the_decay_that_made_the_targets(decay):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((1200, 8)).astype(np.float32)
    targets = np.arange(5, 1200, 6)
    for target in targets:
        vectors[target] = plain_mean(vectors, target - 5, target, decay)

    assert fit_decay(vectors, targets - 5, targets) == pytest.approx(decay)


def test_fit_context_mix_finds_what_made_the_articles():
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((720, 8)).astype(np.float32)
    firsts = np.arange(0, 720, 12)
    for first in firsts:  # only the last concept of an article follows from those before it
        mean = vectors[first : first + 11].mean(axis=0)
        vectors[first + 11] = plain_mean(vectors, first, first + 11, 0.5) + 1.2 * mean

    mix = fit_context_mix(vectors, firsts, firsts + 11)

    assert (mix.decay, mix.article_weight) == (pytest.approx(0.5), pytest.approx(1.2))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.data())
def test_a_search_ends_where_no_neighbour_is_higher(heights, data):
    start = data.draw(st.integers(0, len(heights) - 1))

    found = best_step(heights.__getitem__, start=start, last=len(heights) - 1)

    neighbours = heights[max(0, found - 1) : found + 2]
    assert heights[found] == max(neighbours) >= heights[start]


def test_the_fit_scores_higher_than_its_neighbours():
    vectors = np.cumsum(np.random.default_rng(4).standard_normal((400, 6)), axis=0).astype(np.float32)
    firsts, targets = contexts_of(np.array([200, 200]))

    def score(decay):
        return cosines(decayed_means(vectors, firsts, targets, decay=decay), vectors[targets]).mean()

    found = fit_decay(vectors, firsts, targets)

    assert score(found) >= max(score(d) for d in (found - 0.1, found + 0.1) if 0 <= d <= 1)


def test_many_targets_are_thinned_and_give_nearly_the_same_fit(monkeypatch):
    vectors = np.cumsum(np.random.default_rng(5).standard_normal((2000, 6)), axis=0).astype(np.float32)
    targets = np.arange(5, 2000)
    full = fit_decay(vectors, targets - 5, targets)
    monkeypatch.setattr(weighted_means, "MAX_TARGETS_OF_A_DECAY", 500)

    assert fit_decay(vectors, targets - 5, targets) == pytest.approx(full, abs=0.11)


@pytest.mark.parametrize(
    ("firsts", "targets", "said"),
    [([], [], "no target"), ([0, 0], [5, 4], "not ascending"), ([5], [5], "context is empty")],
)
def test_fits_refuse_what_cannot_be_fitted(firsts, targets, said):
    with pytest.raises(ValueError, match=said):
        fit_decay(np.ones((9, 2), np.float32), np.array(firsts), np.array(targets))
