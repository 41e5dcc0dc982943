import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.source.articles import (
    MAX_WORDS,
    MIN_WORDS,
    concepts_of_text,
    group_sentences,
    make_article_id,
    make_cpe_id,
    split_sentences,
)

words = st.text("abcdefgh,;", min_size=1, max_size=6)
sentences = st.lists(words, min_size=1, max_size=90).map(lambda parts: "A" + " ".join(parts) + ".")
texts = st.lists(st.lists(sentences, min_size=1, max_size=5).map(" ".join), min_size=1, max_size=5).map("\n\n".join)


def sentence(num_words, name="word"):
    return " ".join([name.capitalize()] + ["more"] * (num_words - 2) + ["end."])


@given(texts)
def test_text_becomes_concepts_without_losing_a_word(text):
    concepts = concepts_of_text(text)

    assert " ".join(concepts).split() == text.split()
    assert all(0 < len(concept.split()) <= MAX_WORDS for concept in concepts)


@given(st.lists(st.lists(st.integers(2, 40).map(sentence), min_size=1, max_size=4), min_size=1, max_size=6))
def test_sentences_of_at_most_forty_words_are_grouped_whole(paragraphs):
    concepts = group_sentences(paragraphs)

    rebuilt = [part for concept in concepts for part in split_sentences(concept)]
    assert rebuilt == [part for paragraph in paragraphs for part in paragraph]
    for first, second in pairwise(concepts):
        if len(first.split()) < MIN_WORDS:
            assert len(first.split()) + len(split_sentences(second)[0].split()) > MAX_WORDS


def test_a_concept_closes_at_thirty_words_and_at_a_paragraph_end_from_twenty():
    assert [len(c.split()) for c in group_sentences([[sentence(15)] * 4])] == [30, 30]
    assert [len(c.split()) for c in group_sentences([[sentence(20)], [sentence(20)]])] == [20, 20]
    assert [len(c.split()) for c in group_sentences([[sentence(12)], [sentence(12)]])] == [24]


def test_a_short_rest_joins_the_concept_before_it():
    assert [len(c.split()) for c in group_sentences([[sentence(30), sentence(5)]])] == [35]
    assert [len(c.split()) for c in group_sentences([[sentence(58), sentence(5)]])] == [58, 5]


def test_a_sentence_that_is_too_long_is_cut_behind_a_comma():
    long = "One " + "more " * 38 + "here, " + "then " * 40 + "end."
    pieces = concepts_of_text(long)
    assert [len(piece.split()) for piece in pieces] == [40, 41]
    assert pieces[0].endswith("here,")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It works. It does.", ["It works.", "It does."]),
        ("See e.g. Smith et al. There.", ["See e.g. Smith et al. There."]),
        ("J. R. Hartley wrote it. He did!", ["J. R. Hartley wrote it.", "He did!"]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("Version 3.12 is out. 4 people\nsaw it.", ["Version 3.12 is out.", "4 people saw it."]),
        ("It costs 5 etc. and more. so it goes", ["It costs 5 etc. and more. so it goes"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text, expected):
    assert split_sentences(text) == expected


def test_ids_are_stable_and_apart():
    assert make_article_id("a", "Title") == make_article_id("a", "Title")
    ids = [make_article_id("a", "T"), make_article_id("b", "T"), make_article_id("a", "T", occurrence=1)]
    ids += [make_cpe_id("a", ids[0], 0), make_cpe_id("a", ids[0], 1), make_cpe_id("b", ids[0], 0)]
    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(one).version for one in ids} == {5}
    assert make_article_id("a", "Title") == "1e040d6b-bdf3-5775-94d9-541763a91f85"  # everywhere and for ever


@pytest.mark.parametrize(
    ("sentence", "stop"),
    [
        (
            "\u6211\u4eec\u7684\u5b66\u6821\u5728\u57ce\u5e02\u7684\u4e2d\u5fc3\uff0c\u6709\u5f88\u591a\u5b66\u751f",
            "\u3002",
        ),
        ("\u3053\u306e\u56fd\u306b\u306f\u9577\u3044\u5ddd\u304c\u3042\u308a\u307e\u3059", "\u3002"),
        (
            "\u0e1b\u0e23\u0e30\u0e40\u0e17\u0e28\u0e44\u0e17\u0e22\u0e21\u0e35\u0e41\u0e21\u0e48\u0e19\u0e49\u0e33\u0e22\u0e32\u0e27",
            " ",
        ),
    ],
    ids=["Chinese", "Japanese", "Thai"],
)
def test_text_without_spaces_is_cut_into_concepts_of_usual_length(sentence, stop):
    text = f"{sentence}{stop}" * 150

    concepts = concepts_of_text(text)

    assert all(len(concept) <= 5 * MAX_WORDS + 20 for concept in concepts)
    assert len(concepts) >= len(text) / (5 * MAX_WORDS + 20)
    if stop.strip():
        assert "".join(concepts) == text
        assert all(concept.endswith(stop) for concept in concepts)


def test_languages_may_be_mixed():
    text = "The word \u5b66\u6821 means school. It is used in \u4e2d\u56fd and elsewhere."

    assert concepts_of_text(text) == [text]
