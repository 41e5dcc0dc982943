import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.errors import LvmError
from lvm_pipeline.sequences import splits as module
from lvm_pipeline.sequences.splits import (
    split_by_hash,
    split_by_list,
    split_last_fifth,
    suggest_seed,
)
from lvm_pipeline.source.split_hash import split_of

FRACTIONS = {"train_fraction": 0.8, "validation_fraction": 0.1}


@st.composite
def articles_in_groups(draw):
    ids = draw(st.lists(st.uuids().map(str), unique=True, max_size=30))
    groups = np.arange(len(ids))
    for index in range(len(ids)):
        groups[index] = groups[draw(st.integers(0, index))]
    return ids, groups


@given(articles_in_groups(), st.integers(0, 5))
def test_a_group_is_in_one_split_and_no_article_leaves_train(articles, seed):
    ids, groups = articles
    splits = split_by_hash(ids, groups, seed=seed, **FRACTIONS)
    hashed = [split_of(article_id, seed=seed, **FRACTIONS) for article_id in ids]
    for group in set(groups.tolist()):
        members = np.flatnonzero(groups == group)
        assert len({splits[m] for m in members}) == 1
        if any(hashed[m] == "train" for m in members):
            assert splits[members[0]] == "train"
        else:
            assert splits[members[0]] == hashed[members[0]]
    assert all(split == "train" for split, own in zip(splits, hashed, strict=True) if own == "train")


@given(articles_in_groups(), st.data())
def test_an_article_keeps_its_split_when_others_come_and_go(articles, data):
    ids, _ = articles
    alone = np.arange(len(ids))
    splits = dict(zip(ids, split_by_hash(ids, alone, seed=0, **FRACTIONS), strict=True))
    some = data.draw(st.permutations(ids))[: len(ids) // 2]
    assert split_by_hash(some, np.arange(len(some)), seed=0, **FRACTIONS) == [splits[i] for i in some]


def test_shares_are_near_80_10_10_and_follow_the_seed():
    ids = [f"article {index}" for index in range(4000)]
    splits = np.array(split_by_hash(ids, np.arange(4000), seed=0, **FRACTIONS))
    others = np.array(split_by_hash(ids, np.arange(4000), seed=1, **FRACTIONS))
    shares = [np.mean(splits == split) for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert np.mean(splits != others) > 0.2


def test_the_last_fifth_has_the_requested_numbers():
    splits = split_last_fifth(42108)
    assert (np.sum(splits == "train"), np.sum(splits == "validation")) == (33687, 8421)
    assert list(splits) == sorted(splits)  # train comes first


def test_listed_articles_are_validation_and_all_others_train():
    assert split_by_list(["a", "b", "c"], ["c", "a", "c"]) == ["validation", "train", "validation"]


def test_unknown_listed_articles_are_named():
    with pytest.raises(LvmError, match=r"2 of the listed .*\(x, y\)"):
        split_by_list(["a", "b"], ["x", "a", "y", "x"])


def test_the_suggested_seed_fills_every_split():
    ids, groups, has_sequences = [f"a{i}" for i in range(6)], np.array([0, 1, 2, 3, 4, 4]), np.array([1, 1, 0, 1, 1, 1])
    seed = suggest_seed(ids, groups, has_sequences == 1, **FRACTIONS)
    splits = np.array(split_by_hash(ids, groups, seed=seed, **FRACTIONS))
    assert set(splits[has_sequences == 1]) == {"train", "validation", "test"}


def test_no_seed_is_suggested_where_none_can_fill():
    assert suggest_seed(["a", "b"], np.array([0, 1]), np.array([True, True]), **FRACTIONS) is None


def test_no_seed_is_searched_for_where_too_few_groups_have_sequences(monkeypatch):
    """A thousand seeds would be tried on every article: minutes for a few thousand of them."""
    monkeypatch.setattr(module, "split_by_hash", None)
    ids, groups = [f"article {i}" for i in range(9)], np.array([0, 0, 0, 3, 4, 5, 6, 7, 8])

    for having in ([0, 1, 2], [0, 2, 3]):
        assert suggest_seed(ids, groups, np.isin(np.arange(9), having), **FRACTIONS) is None


def test_a_seed_is_searched_for_on_articles_with_sequences_only(monkeypatch):
    hashed = []
    monkeypatch.setattr(module, "split_of", lambda name, **options: hashed.append(name) or split_of(name, **options))
    ids = [f"article {i}" for i in range(2000)]
    has_sequences = np.isin(np.arange(2000), [7, 70, 700])

    seed = suggest_seed(ids, np.arange(2000), has_sequences, **FRACTIONS)

    splits = np.array(split_by_hash(ids, np.arange(2000), seed=seed, **FRACTIONS))
    assert set(splits[has_sequences]) == {"train", "validation", "test"}
    assert len(hashed) == 3 * (seed + 1) + 2 * 2000


def test_a_suggested_seed_fits_groups_whose_other_articles_have_no_sequences():
    groups = np.arange(300) // 3 * 3
    ids, has_sequences = [f"article {i}" for i in range(300)], np.isin(np.arange(300), [1, 100, 202])

    seed = suggest_seed(ids, groups, has_sequences, **FRACTIONS)

    splits = np.array(split_by_hash(ids, groups, seed=seed, **FRACTIONS))
    assert set(splits[has_sequences]) == {"train", "validation", "test"}


def chained(num_articles, size):
    """Ids of articles, and groups of so many of them."""
    ids = [f"article {i}" for i in range(num_articles)]
    return ids, np.arange(num_articles) // size * size


@pytest.mark.parametrize("size", [4, 10])
def test_groups_that_would_swallow_validation_are_assigned_by_size(size):
    """With groups of 10, one in ten million has no member that hashes to train."""
    ids, groups = chained(200, size)
    is_alone = np.arange(200) >= 160
    groups = np.where(is_alone, np.arange(200), groups)

    splits = np.array(split_by_hash(ids, groups, seed=0, **FRACTIONS))

    assert all(len(set(splits[groups == group])) == 1 for group in set(groups.tolist()))
    assert np.mean(splits == "train") == pytest.approx(0.8, abs=0.05)
    assert np.sum(splits == "validation") >= 0.5 * 0.1 * 200
    assert set(splits[:100]) == {"train"}  # the largest groups are train


def test_one_chain_of_nearly_all_articles_leaves_the_others_to_validation_and_test():
    ids, groups = chained(200, 190)
    groups = np.where(np.arange(200) >= 190, np.arange(200), groups)

    splits = split_by_hash(ids, groups, seed=0, **FRACTIONS)

    assert set(splits[:190]) == {"train"}
    assert (splits.count("validation"), splits.count("test")) == (5, 5)


def test_a_few_groups_leave_the_split_as_it_was():
    ids, groups = chained(300, 1)
    pairs = groups.copy()
    pairs[1:40:2] = pairs[0:39:2]

    before, after = (split_by_hash(ids, each, seed=0, **FRACTIONS) for each in (groups, pairs))

    assert before[40:] == after[40:]
