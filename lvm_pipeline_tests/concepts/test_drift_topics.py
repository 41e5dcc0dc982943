"""A change in the mix of topics and one of the content within topics are different findings."""

import numpy as np
import pytest

from lvm_pipeline.concepts.drift.compare import compare_articles
from lvm_pipeline.concepts.drift.permutation import groupings
from lvm_pipeline.concepts.drift.statistics import Groups
from lvm_pipeline.concepts.drift.topics import content_within_topics_is_as_before, topic_mix_is_as_before
from lvm_pipeline_tests.concepts.drifting import VECTOR_DIM, MadeArticle
from lvm_pipeline_tests.concepts.test_drift_statistics import pool_of

CENTRES = 3 * np.random.default_rng(9).standard_normal((5, VECTOR_DIM))
MIX, CONTENT = "topic_mix_is_as_before", "content_within_topics_is_as_before"


def articles(num, *, seed, shares=(0.25,) * 4, shift=0.0):
    """Articles of one topic each, drawn by shares; `shift` moves all of them the same way."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(num):
        centre = CENTRES[rng.choice(len(shares), p=shares)] + 0.5 * rng.standard_normal(VECTOR_DIM)
        vectors = centre + rng.standard_normal((10, VECTOR_DIM))
        vectors[:, 3] += shift
        made.append(MadeArticle(f"{seed} {number}", vectors.astype(np.float32), np.full((10, 3), -1)))
    return made


def findings(after, before=None):
    found = compare_articles(pool_of(before or articles(120, seed=1)), pool_of(after))
    return {each.name: each for each in found}


def test_the_same_topics_with_the_same_content_pass():
    found = findings(articles(60, seed=2))

    assert found[MIX].passed
    assert found[CONTENT].passed


def test_topics_are_the_same_for_every_grouping():
    pool = pool_of(articles(40, seed=3))
    is_after = groupings(30, 10, num_permutations=9, seed=0)

    for statistic in (topic_mix_is_as_before.statistic, content_within_topics_is_as_before.statistic):
        values = statistic(Groups(pool=pool, is_after=is_after)).values
        turned = statistic(Groups(pool=pool, is_after=is_after[::-1])).values
        np.testing.assert_allclose(turned[::-1], values, rtol=1e-6)


@pytest.mark.parametrize(
    "shares", [(0.6, 0.2, 0.1, 0.1), (0.15, 0.15, 0.15, 0.15, 0.4)], ids=["another mix", "a new topic"]
)
def test_another_mix_is_said_to_be_one(shares):
    found = findings(articles(60, seed=2, shares=shares))

    assert not found[MIX].passed
    first, *_ = found[MIX].details["topics"]
    assert f"that of article {first['typical_article']} from {first['before']:.1%} to" in found[MIX].message
    if len(shares) == 4:
        assert found[CONTENT].passed


def test_other_content_of_the_same_topics_is_said_to_be_that():
    found = findings(articles(60, seed=2, shift=0.8))

    assert found[MIX].passed
    assert not found[CONTENT].passed
    assert "the content within topics changed most in that of article" in found[CONTENT].message
