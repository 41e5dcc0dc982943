"""Every check says what it means and what to do, and the runbook has no others."""

import pytest

from lvm_pipeline.concepts.drift import compare
from lvm_pipeline.definitions import defs
from lvm_pipeline.runbook import RUNBOOK, in_words, remedy_of


@pytest.fixture(scope="module")
def declared():
    """The names of all checks that Dagster knows."""
    return {key.name for key in defs().resolve_asset_graph().asset_check_keys}


def test_the_runbook_has_every_check_and_no_other(declared):
    assert {each.name for each in compare.drift_invariants()} < declared
    assert RUNBOOK.keys() == declared


@pytest.mark.parametrize("name", RUNBOOK)
def test_both_are_whole_sentences(name):
    for words in (RUNBOOK[name].meaning, RUNBOOK[name].remedy):
        assert words[0].isupper() or words[0].isdigit(), words
        assert words.endswith("."), words
        assert "  " not in words


def test_a_check_of_somebody_else_says_its_name():
    assert in_words("moon_is_full") == "Moon is full."
    assert remedy_of("moon_is_full") is None
