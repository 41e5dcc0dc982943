"""Texts and vectors that do not go together are found without an encoder, and named; those that do never are."""

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline.concepts.facts import read_facts
from lvm_pipeline.concepts.sample import sample_of
from lvm_pipeline.concepts.text_features import text_features
from lvm_pipeline.concepts.text_invariants import vectors_go_with_their_texts
from lvm_pipeline.concepts.text_maps import article_fits
from lvm_pipeline.concepts.text_match import Fault, match_texts
from lvm_pipeline.words import counted
from lvm_pipeline_tests.synthetic import write_table
from lvm_pipeline_tests.worded import created, rotated, vector_column, vectors_in, with_columns, worded_table

LENGTHS = [24, 11, 30, 9, 18, 27, 14, 21] * 8
NUM = sum(LENGTHS)
ARTICLES = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


@pytest.fixture(scope="module")
def table():
    return worded_table(LENGTHS)


@pytest.fixture
def finding_of(tmp_path):
    def check(table, **metadata):
        return vectors_go_with_their_texts(read_facts(write_table(table, tmp_path / "concepts.parquet", **metadata)))

    return check


def with_vectors(table, rows, change):
    vectors = vectors_in(table).copy()
    vectors[rows] = change(vectors[rows])
    return with_columns(table, vector=vector_column(vectors))


def test_unharmed_data_pass(table, finding_of):
    finding = finding_of(table)

    assert finding.passed
    assert finding.was_checked
    assert finding.details["effect"] > 0.3
    assert f"{NUM:,} concepts go together" in finding.message


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_unharmed_data_pass(seed, finding_of):
    lengths = np.random.default_rng(seed).integers(3, 40, 40).tolist()

    finding = finding_of(worded_table(lengths, seed=seed))

    assert finding.passed, finding.message
    assert finding.was_checked


@pytest.mark.parametrize("every", [2, 3, 12])
def test_articles_of_another_space_are_named_with_their_time(every, table, finding_of):
    """F16: a rotation keeps width, norms and all cosines inside the articles."""
    is_other = ARTICLES % every == 1
    articles = np.array(table["article_id"].to_pylist())
    harmed = with_vectors(table, is_other, rotated)
    order = np.argsort(is_other, kind="stable")
    times = created([NUM - is_other.sum(), is_other.sum()]).take(pa.array(np.argsort(order)))

    finding = finding_of(with_columns(harmed, created_at=times), space_id="some-encoder")

    assert finding.outcome == "failed"
    named = set(finding.details["article_ids"])
    others = set(articles[is_other].tolist())
    assert finding.details["num_articles"] == len(others)
    assert len(named) == min(20, len(others))
    if every > 2:  # of two halves, either is "the other"
        assert named <= others
        assert finding.details["num_bad"] == is_other.sum()
        assert f"created at 2026-05-02T12:00:00 UTC ({is_other.sum()} of the {is_other.sum()}" in finding.message
    if every < 12:
        assert "of another space than the others" in finding.message
    assert "declared to be of the space some-encoder" in finding.message


def test_rows_of_another_space_inside_all_articles_are_found(table, finding_of):
    is_other = np.random.default_rng(0).random(NUM) < 0.4

    finding = finding_of(with_vectors(table, is_other, rotated))

    assert finding.outcome == "failed"
    assert "of another space than the others" in finding.message
    assert finding.details["num_bad"] == pytest.approx(is_other.sum(), rel=0.03)
    assert is_other[finding.details["rows"]].mean() > 0.9


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2])
def test_single_rows_of_another_space_are_named_with_their_time(share, finding_of):
    """A few rows of every article: what texts tell is too little, but their vectors point elsewhere."""
    table = worded_table(LENGTHS, vector_dim=128, decay=0.8)
    is_other = np.random.default_rng(0).random(NUM) < share
    num = is_other.sum()
    order = np.argsort(is_other, kind="stable")
    times = created([NUM - num, num]).take(pa.array(np.argsort(order)))

    finding = finding_of(
        with_columns(with_vectors(table, is_other, rotated), created_at=times), space_id="some-encoder"
    )

    assert finding_of(table).passed
    assert finding.outcome == "failed"
    assert f"{num} of {NUM:,} concepts have vectors of another space than the others: row " in finding.message
    assert finding.details["rows"] == np.flatnonzero(is_other)[:20].tolist()
    assert f"created at 2026-05-02T12:00:00 UTC ({num} of the {num} concepts created then)" in finding.message
    assert "declared to be of the space some-encoder" in finding.message


def test_rows_of_another_space_are_found_though_both_have_a_strong_mean(finding_of):
    table = worded_table(LENGTHS, vector_dim=128, decay=0.8)
    shifted = vector_column(vectors_in(table) + 1.5 * np.eye(1, 128, 7))
    table = with_columns(table, vector=shifted)
    is_other = np.random.default_rng(0).random(NUM) < 0.1

    finding = finding_of(with_vectors(table, is_other, rotated))

    assert finding_of(table).passed
    assert finding.details["num_bad"] == is_other.sum()
    assert finding.details["rows"] == np.flatnonzero(is_other)[:20].tolist()


@pytest.mark.parametrize("offset", [1, -2])
def test_vectors_shifted_against_their_texts_are_found_with_the_shift(offset, table, finding_of):
    """F17: vectors of unharmed concepts, only of others."""
    finding = finding_of(with_vectors(table, np.arange(NUM), lambda vectors: np.roll(vectors, offset, axis=0)))

    assert finding.outcome == "failed"
    direction = "later" if offset > 0 else "earlier"
    assert f"all {NUM:,}" in finding.message or f"{NUM:,} of {NUM:,}" in finding.message
    assert f"fit the vectors {counted(abs(offset), 'row')} {direction}" in finding.message


def test_a_batch_of_vectors_written_to_other_rows_is_found_with_its_distance(table, finding_of):
    rows = np.flatnonzero((ARTICLES >= 6) & (ARTICLES < 14))

    finding = finding_of(with_vectors(table, rows, lambda vectors: np.roll(vectors, 40, axis=0)))

    assert finding.outcome == "failed"
    assert "fit the vectors 40 rows later" in finding.message
    assert set(ARTICLES[finding.details["rows"]]) <= set(range(6, 14))


def test_one_long_article_with_other_texts_is_named(table, finding_of):
    texts = np.array(table["concept_text"].to_pylist(), object)
    rows = np.flatnonzero(ARTICLES == 2)
    texts[rows] = [f"{text} indeed" for text in texts[np.flatnonzero(ARTICLES == 10)]]

    finding = finding_of(with_columns(table, concept_text=pa.array(texts.tolist())))

    assert finding.outcome == "failed"
    assert finding.details["article_ids"] == [table["article_id"][int(rows[0])].as_py()]


@pytest.mark.parametrize("harm", ["shuffled", "collapsed"])
def test_vectors_that_say_nothing_of_their_texts_fail(harm, table, finding_of):
    rng = np.random.default_rng(0)
    changes = {
        "shuffled": lambda vectors: vectors[rng.permutation(NUM)],
        "collapsed": lambda vectors: vectors.mean(axis=0) + 1e-3 * rng.standard_normal(vectors.shape),
    }

    finding = finding_of(with_vectors(table, np.arange(NUM), changes[harm]))

    assert finding.outcome == "failed"
    assert f"the texts do not predict the vectors ({NUM:,} concepts compared)" in finding.message


def test_a_third_of_all_rows_in_a_random_order_are_found(table, finding_of):
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(rng.random(NUM) < 0.35)

    finding = finding_of(with_vectors(table, rows, lambda vectors: vectors[rng.permutation(len(vectors))]))

    assert finding.outcome == "failed"
    assert "do not fit their texts" in finding.message
    assert np.isin(finding.details["rows"], rows).mean() > 0.8


def test_texts_without_spaces_are_compared_by_their_characters(finding_of):
    signs = "".join(chr(0x4E00 + 7 * i) for i in range(60))
    table = worded_table(LENGTHS, separator="", alphabet=signs)

    assert finding_of(table).details["effect"] > 0.15
    assert finding_of(with_vectors(table, ARTICLES % 3 == 1, rotated)).outcome == "failed"


def test_a_few_articles_in_another_language_are_not_blamed(table, finding_of):
    foreign = worded_table([12] * 4, seed=5, alphabet="αβγδεζηθικλμνξο")
    texts = table["concept_text"].to_pylist()
    vectors = vectors_in(table).copy()
    rows = np.concatenate([np.flatnonzero(article == ARTICLES)[:12] for article in (0, 2, 4, 5)])
    for row, text in zip(rows.tolist(), foreign["concept_text"].to_pylist(), strict=True):
        texts[row] = text
    vectors[rows] = vectors_in(foreign)

    assert finding_of(with_columns(table, concept_text=pa.array(texts), vector=vector_column(vectors))).passed


LONGER = [24, 11, 30, 9, 18, 60, 14, 21] * 8
ARTICLES_LONGER = np.repeat(np.arange(len(LONGER)), LONGER)
NUM_LONGER = sum(LONGER)


@pytest.fixture
def small_sample(monkeypatch):
    """A sample of about half of the table, every other article."""
    monkeypatch.setattr("lvm_pipeline.concepts.sample.MAX_CONCEPTS", NUM_LONGER // 2)
    monkeypatch.setattr("lvm_pipeline.concepts.text_screen.MAX_SHARE", 0.3)


@pytest.fixture(scope="module")
def longer_table():
    return worded_table(LONGER, vector_dim=128, decay=0.8)


@pytest.mark.parametrize("harm", ["rotated", "shuffled", "shifted", "replaced"])
def test_a_harmed_article_outside_the_sample_is_found(harm, longer_table, finding_of, small_sample, tmp_path):
    sample = read_facts(write_table(longer_table, tmp_path / "unharmed.parquet")).sample
    outside = set(range(len(LONGER))) - set(sample.article_codes.tolist())
    article = max(outside, key=lambda article: LONGER[article])
    rows, rng = np.flatnonzero(article == ARTICLES_LONGER), np.random.default_rng(0)
    other_rows = np.flatnonzero((article + 8) % len(LONGER) == ARTICLES_LONGER)
    changes = {
        "rotated": rotated,
        "shuffled": lambda vectors: vectors[rng.permutation(len(vectors))],
        "shifted": lambda vectors: np.roll(vectors, 1, axis=0),
        "replaced": lambda _: vectors_in(longer_table)[other_rows],
    }

    finding = finding_of(with_vectors(longer_table, rows, changes[harm]))

    assert finding.outcome == "failed"
    assert longer_table["article_id"][int(rows[0])].as_py() in finding.details["article_ids"]
    assert finding.details["num_articles"] <= 2
    assert finding.details["num_suspicious_articles_compared"] >= 1
    assert f"a sample of {finding.details['num_compared']} of {NUM_LONGER:,}" in finding.message


def test_unharmed_data_pass_where_only_a_sample_is_compared(longer_table, finding_of, small_sample):
    finding = finding_of(longer_table)

    assert finding.passed
    assert finding.details["num_screened"] > NUM_LONGER // 3
    assert finding.details["num_suspicious_articles"] <= 1


@pytest.mark.parametrize("num_dated", [0, 100])
def test_rows_without_a_time_are_counted(num_dated, table, finding_of):
    is_other = ARTICLES % 3 == 1
    times = [time if row < num_dated else None for row, time in enumerate(created([NUM]).to_pylist())]
    harmed = with_columns(
        with_vectors(table, is_other, rotated), created_at=pa.array(times, pa.timestamp("us", tz="UTC"))
    )

    finding = finding_of(harmed)

    num_undated = int(is_other[num_dated:].sum())
    words = f"created_at is empty in {num_undated} more" if num_dated else f"created_at is empty in all {num_undated}"
    assert words in finding.message
    assert finding.details["num_undated"] == num_undated


@pytest.mark.parametrize("seed", range(8))
def test_texts_that_say_nothing_of_few_vectors_are_not_two_spaces(seed):
    num, length = 20, 12
    vectors = np.random.default_rng(seed).standard_normal((num * length, 8)).astype(np.float32)
    texts = pa.array([f"Text {position} of article {article}." for article in range(num) for position in range(length)])

    match = match_texts(sample_of(texts, np.repeat(np.arange(num), length), vectors))

    assert match.fault is Fault.NONE
    assert "too few to judge" in match.why_not


@pytest.mark.parametrize("seed", range(2))
def test_two_spaces_in_few_articles_are_found(seed, finding_of):
    table = worded_table([12] * 20, seed=seed)

    finding = finding_of(with_vectors(table, np.arange(240) // 12 % 3 == 0, rotated))

    assert not finding.passed
    assert "vectors of another space" in finding.message


def test_too_few_concepts_are_not_judged(finding_of):
    finding = finding_of(worded_table([9] * 10))

    assert finding.outcome == "not checked"
    assert "too few" in finding.message


@pytest.mark.parametrize("length", [1, 2])
def test_articles_too_short_to_compare_concepts_are_not_judged(finding_of, length):
    finding = finding_of(worded_table([length] * (1200 // length)))

    assert finding.outcome == "not checked"
    assert "0 concepts in articles of at least 3 concepts are too few" in finding.message


def test_scores_of_unrelated_vectors_are_standard_normal():
    """The null: each order of the vectors in an article was as likely, so no simulation is needed."""
    rng = np.random.default_rng(0)
    articles = np.repeat(np.arange(2000), rng.integers(4, 12, 2000))
    predictions, vectors = rng.standard_normal((2, len(articles), 8)).astype(np.float32)

    scores = article_fits(predictions, vectors, articles).scores()

    assert abs(scores.mean()) < 0.08
    assert scores.std() == pytest.approx(1, abs=0.06)
    assert article_fits(vectors, vectors, articles).scores().min() > 2


def test_features_are_words_and_pairs_of_characters_of_scripts_without_spaces():
    apart = text_features(pa.array(["red fox", "Red cat", "red fox.", "", None, "dog"]))
    together = text_features(pa.array(["東京都", "東京", "犬", "猫", "鳥"]))

    cosines = (apart @ apart.T).toarray()
    assert cosines[0, 2] == pytest.approx(1)
    assert cosines[3].max() == cosines[4].max() == 0
    assert (together @ together.T).toarray()[0, 1] > 0.99
