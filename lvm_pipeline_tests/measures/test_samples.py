"""Samples of train targets are as large as they say, and evenly spaced; threads change nothing."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from lvm_pipeline.measures.samples import is_sampled
from lvm_pipeline.measures.threads import in_threads


def test_all_targets_are_used_where_they_are_few():
    assert is_sampled(np.repeat(np.arange(5), 20), at_most=100).all()


def test_whole_articles_are_used_where_there_are_many():
    articles = np.repeat(np.arange(400), np.random.default_rng(0).integers(5, 50, 400))

    used = is_sampled(articles, at_most=3000)

    assert 2500 < used.sum() < 3500
    assert not set(articles[used]) & set(articles[~used])
    assert np.ptp(np.histogram(articles[used], bins=4)[0]) < 400


def test_runs_of_few_long_articles_are_used():
    articles = np.repeat(np.arange(4), 3200)

    used = is_sampled(articles, at_most=6400)

    assert used.sum() == 6400
    assert all(used[articles == article].sum() == 1600 for article in range(4))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_what_is_found_in_threads_is_in_order(num_threads):
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((50, 50)) for _ in range(9)]

    with threadpool_limits(num_threads, "blas"):
        found = in_threads(lambda block: block @ block, blocks)

    np.testing.assert_allclose(found, [block @ block for block in blocks], atol=1e-10)
