"""A number and its noun agree, in messages and on pages."""

import pytest

from lvm_pipeline.tables import number, three_digits
from lvm_pipeline.words import counted


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (1, ("article",), "1 article"),
        (0, ("article",), "0 articles"),
        (2000, ("article",), "2,000 articles"),
        (1, ("duplicate was skipped", "duplicates were skipped"), "1 duplicate was skipped"),
        (3, ("duplicate was skipped", "duplicates were skipped"), "3 duplicates were skipped"),
    ],
)
def test_the_noun_and_the_verb_are_of_the_number(number, nouns, text):
    assert counted(number, *nouns) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (12.345, "12.3"), (999.4, "999"), (999.6, "1000"), (1518.6, "1519"), (86400.0, "86400")],
)
def test_large_numbers_have_no_exponent(value, text):
    assert three_digits(value) == text
    assert number("seconds", lambda row: row, write=three_digits).text(value) == text
