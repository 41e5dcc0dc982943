import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.sequences.windows import window_starts

LENGTHS = st.lists(st.integers(1, 12), max_size=10)


def indices_of(lengths):
    return np.repeat(np.arange(len(lengths)), lengths)


@given(LENGTHS, st.integers(1, 6))
def test_every_article_gives_its_windows_and_none_crosses(lengths, context_length):
    articles = indices_of(lengths)

    starts = window_starts(articles, context_length)

    assert len(starts) == sum(max(0, n - context_length) for n in lengths)
    assert all(len(set(articles[s : s + context_length + 1])) == 1 for s in starts)
    assert list(starts) == sorted(set(starts))


@given(LENGTHS, st.integers(1, 6))
def test_windows_are_those_that_a_plain_loop_finds(lengths, context_length):
    articles = indices_of(lengths).tolist()
    expected = [
        start
        for start in range(len(articles) - context_length)
        if len(set(articles[start : start + context_length + 1])) == 1
    ]
    assert window_starts(np.array(articles, dtype=int), context_length).tolist() == expected


def test_the_requested_numbers_of_the_compatibility_mode():
    assert len(window_starts(np.zeros(42113, dtype=int), 5)) == 42108


@pytest.mark.parametrize("context_length", [0, -1])
def test_a_context_has_at_least_one_concept(context_length):
    with pytest.raises(ValueError, match=f"at least 1, got {context_length}"):
        window_starts(np.zeros(9, dtype=int), context_length)


def test_an_article_in_two_runs_is_refused():
    with pytest.raises(ValueError, match="two runs"):
        window_starts(np.array([0, 0, 1, 0]), 1)
