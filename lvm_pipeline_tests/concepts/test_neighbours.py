"""Articles, and tables, whose order is random are found by their vectors alone (F18)."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest

from lvm_pipeline.concepts.facts import read_facts
from lvm_pipeline.concepts.neighbours import _neighbours, closeness_of, neighbours_are_close
from lvm_pipeline_tests.synthetic import synthetic_table, write_table
from lvm_pipeline_tests.worded import vector_column, vectors_in, with_columns, worded_table

LENGTHS = [24, 11, 30, 9, 18, 27, 14, 21] * 8
ARTICLES = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


@pytest.fixture
def facts_of(tmp_path):
    return lambda table: read_facts(write_table(table, tmp_path / "concepts.parquet"))


def shuffled(table, articles, *, seed=0):
    """Shuffle texts and vectors inside articles; positions stay as they were."""
    rng = np.random.default_rng(seed)
    order = np.arange(len(ARTICLES))
    for article in articles:
        rows = np.flatnonzero(article == ARTICLES)
        order[rows] = rng.permutation(rows)
    return with_columns(
        table, concept_text=table["concept_text"].take(order), vector=vector_column(vectors_in(table)[order])
    )


def test_text_in_order_passes(facts_of):
    finding = neighbours_are_close(facts_of(worded_table(LENGTHS)))

    assert finding.outcome == "passed"
    assert finding.observed > 0.1
    assert finding.details["num_random"] == 0


def test_articles_too_short_to_show_an_order_are_not_judged(facts_of):
    finding = neighbours_are_close(facts_of(worded_table([3] * 120)))

    assert finding.outcome == "not checked"
    assert finding.message == "no article has at least 4 concepts"


def test_articles_in_random_order_are_named_as_a_warning(facts_of):
    table = worded_table(LENGTHS)
    longest = [2, 5, 10]

    finding = neighbours_are_close(facts_of(shuffled(table, longest)))

    assert finding.outcome == "warning"
    ids = {table["article_id"][int(np.flatnonzero(article == ARTICLES)[0])].as_py() for article in longest}
    assert set(finding.details["article_ids"]) <= ids
    assert len(finding.details["article_ids"]) >= 2


def test_a_table_in_random_order_blocks(facts_of):
    finding = neighbours_are_close(facts_of(shuffled(worded_table(LENGTHS), range(len(LENGTHS)))))

    assert finding.outcome == "failed"
    assert "the order of all articles looks random" in finding.message


def test_vectors_without_any_order_are_not_judged(facts_of):
    noise = with_columns(worded_table(LENGTHS), vector=synthetic_table(LENGTHS, kind="noise")["vector"])

    finding = neighbours_are_close(facts_of(noise))

    assert finding.outcome == "not checked"
    assert "show no order" in finding.message


def test_random_orders_have_standard_normal_scores(facts_of):
    sample = facts_of(shuffled(worded_table(LENGTHS), range(len(LENGTHS)))).sample
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(20):
        order = np.lexsort((rng.random(len(sample.rows)), sample.articles))
        scores.append(closeness_of(dataclasses.replace(sample, vectors=sample.vectors[order])).scores())

    assert abs(np.mean(scores)) < 0.1
    assert np.std(scores) == pytest.approx(1, abs=0.07)


def test_the_variance_over_all_orders_is_exact():
    vectors = np.random.default_rng(0).standard_normal((6, 3))
    cosines = vectors @ vectors.T
    orders = [np.array(order) for order in permutations(range(6))]

    _, variance, _ = _neighbours(cosines)

    assert variance == pytest.approx(np.var([_neighbours(cosines[np.ix_(order, order)])[0] for order in orders]))
