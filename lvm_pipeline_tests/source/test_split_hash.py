from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.split_hash import hash_fraction, read_article_list, split_of


@given(st.text(), st.integers())
def test_an_id_has_one_hash_in_the_unit_interval(article_id, seed):
    fraction = hash_fraction(article_id, seed=seed)
    assert 0 <= fraction < 1
    assert fraction == hash_fraction(article_id, seed=seed)


def test_fractions_are_kept_and_seeds_differ():
    ids = [f"article {i}" for i in range(4_000)]
    splits = [split_of(i, seed=0, train_fraction=0.8, validation_fraction=0.1) for i in ids]
    counts = Counter(splits)
    assert abs(counts["train"] / len(ids) - 0.8) < 0.02
    assert abs(counts["validation"] / len(ids) - 0.1) < 0.02
    assert splits != [split_of(i, seed=1, train_fraction=0.8, validation_fraction=0.1) for i in ids]


@pytest.mark.parametrize(("article_id", "fraction"), [("a", 0.6170009362330672), ("b", 0.875512301340902)])
def test_the_hash_of_an_id_never_changes(article_id, fraction):
    assert hash_fraction(article_id, seed=0) == pytest.approx(fraction)  # printf 0:a | sha256sum


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.8, -0.1)])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions"):
        split_of("a", seed=0, train_fraction=fractions[0], validation_fraction=fractions[1])


@pytest.mark.parametrize("content", ["a\nb#1", "\ufeffa\r\n\r\nb#1\r\n", "\ufeff# comment\n a \n\n\tb#1\n  # more\n"])
def test_a_list_is_one_id_per_line(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content.encode())
    assert read_article_list(path) == ["a", "b#1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n\n", "is empty"), (b"\xff\xfe\x00", "cannot be read"), (None, "cannot be read")],
)
def test_an_empty_list_is_refused(tmp_path, content, message):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LvmError, match=message):
        read_article_list(path)
