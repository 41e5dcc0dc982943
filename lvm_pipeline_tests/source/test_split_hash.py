from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.source.split_hash import hash_place, split_of


@given(st.text(), st.integers())
def test_an_article_has_one_place_in_the_unit_interval(article_id, seed):
    place = hash_place(article_id, seed=seed)
    assert 0 <= place < 1
    assert place == hash_place(article_id, seed=seed)


def test_fractions_are_kept_and_seeds_differ():
    ids = [f"article {i}" for i in range(4_000)]
    splits = [split_of(i, seed=0, train_fraction=0.8, validation_fraction=0.1) for i in ids]
    counts = Counter(splits)
    assert abs(counts["train"] / len(ids) - 0.8) < 0.02
    assert abs(counts["validation"] / len(ids) - 0.1) < 0.02
    assert splits != [split_of(i, seed=1, train_fraction=0.8, validation_fraction=0.1) for i in ids]


@pytest.mark.parametrize(("article_id", "place"), [("a", 0.6170009362330672), ("b", 0.875512301340902)])
def test_the_place_of_an_id_never_changes(article_id, place):
    assert hash_place(article_id, seed=0) == pytest.approx(place)  # printf 0:a | sha256sum


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.8, -0.1), (0.8, 0.3)])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions"):
        split_of("a", seed=0, train_fraction=fractions[0], validation_fraction=fractions[1])
