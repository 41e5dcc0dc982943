"""Faults F16 to F23, which lie in the data alone: nothing declared tells of them.

As in `test_source`, each is put into the Postgres table, the real Dagster definitions run, and one check names it.

| fault | guard that is neutered | what goes red |
|---|---|---|
| F16 | `vectors_go_with_their_texts` passes | test_f16_articles_of_another_space, test_f16_rows_of_another_space |
| F16 | `text_match._other_space` finds none | test_f16_a_tenth_of_the_rows_of_another_space |
| F16 | `text_match._two_spaces` finds none | test_f16_rows_of_another_space |
| F17 | `text_match._shifted` finds none | test_f17 |
| F18 | `neighbours_are_close` passes | test_f18_all_articles, test_f18_some_articles |
| F19 | `splits_have_their_share` passes | test_f19 |
| F22 | `sentence_transformer._options_of_folder` names nothing | test_f22 |
| F23 | `equal_vectors_have_equal_texts` passes | test_f23 |

F20 (the missing baseline) and F21 (the luckiest of many) are in `test_models`.
"""

import json

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector

from lvm_pipeline.source.encoders.sentence_transformer import space_of_folder
from lvm_pipeline_tests.defs.source_table import execute, fill_source_with
from lvm_pipeline_tests.faults import runs
from lvm_pipeline_tests.faults.mutations import Mutation, goes_unseen
from lvm_pipeline_tests.faults.runs import assert_stopped, assert_warned
from lvm_pipeline_tests.source.given_files import write_model_folder
from lvm_pipeline_tests.worded import rotated, vectors_in, worded_table

pytestmark = pytest.mark.postgres

LENGTHS = [24, 11, 30, 9, 18, 27, 14, 21] * 8
ARTICLES = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
TABLE = worded_table(LENGTHS, vector_dim=runs.WIDTH * 2)
IDS = np.array(TABLE["cpe_id"].to_pylist())
SHORT = {"min_validation_articles": 2, "min_validation_sequences": 30}


@pytest.fixture(scope="module")
def unharmed(module_postgres_url, embedded_postgres_dir, embedded_server, open_tmp_path_factory):
    """What every check says of the unharmed table."""
    fill_source_with(module_postgres_url, TABLE)
    home = open_tmp_path_factory() / "lvm_home"
    run = runs.refresh(runs.make_settings(home, embedded_postgres_dir, module_postgres_url, **SHORT))
    assert run.materialised >= {"concepts", "sequences"}, run.sentence
    return run


@pytest.fixture
def source(postgres_url, embedded_postgres_dir, open_tmp_path):
    """Settings of an empty home with a table of its own, and the URL of the table, to be harmed."""
    fill_source_with(postgres_url, TABLE)
    return runs.make_settings(open_tmp_path / "lvm_home", embedded_postgres_dir, postgres_url, **SHORT), postgres_url


def store(url, rows, vectors):
    with psycopg.connect(url) as connection:
        register_vector(connection)
        connection.cursor().executemany(
            "UPDATE cpe_vectors SET concept_vec = %s WHERE cpe_id = %s::uuid",
            [(Vector(vector), cpe_id) for cpe_id, vector in zip(IDS[rows], vectors, strict=True)],
        )


def test_f16_articles_of_another_space(unharmed, source):
    settings, url = source
    rows = np.flatnonzero(ARTICLES % 3 == 1)
    store(url, rows, rotated(vectors_in(TABLE)[rows]))
    execute(url, "UPDATE cpe_entry SET created_at = '2026-01-01 00:00:00+00'")
    execute(
        url,
        "UPDATE cpe_entry SET created_at = '2026-05-02 10:00:00+00' WHERE cpe_id = ANY(%s::uuid[])",
        list(IDS[rows]),
    )

    run = runs.refresh(settings)

    first = TABLE["article_id"][int(rows[0])].as_py()
    naming = ("of another space than the others", first, "created at 2026-05-02T10:00:00", "of the space synthetic-")
    assert_stopped(run, unharmed, at="concepts", by="vectors_go_with_their_texts", naming=naming)


def test_f16_rows_of_another_space(unharmed, source):
    settings, url = source
    rows = np.flatnonzero(np.random.default_rng(0).random(len(ARTICLES)) < 0.4)
    store(url, rows, rotated(vectors_in(TABLE)[rows]))

    run = runs.refresh(settings)

    naming = ("of another space than the others", f"row {rows[0]} ({IDS[rows[0]]})")
    assert_stopped(run, unharmed, at="concepts", by="vectors_go_with_their_texts", naming=naming)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_f16_single_rows_of_another_space(unharmed, source, share):
    assert_single_rows_are_found(unharmed, source, share)


def test_f16_a_tenth_of_the_rows_of_another_space(unharmed, source):
    assert_single_rows_are_found(unharmed, source, 0.1)


def assert_single_rows_are_found(unharmed, source, share):
    """A few rows of every article, in vectors that lie along few directions, as those of encoders do."""
    settings, url = source
    table = worded_table(LENGTHS, vector_dim=runs.WIDTH * 8, decay=0.8)
    vectors = vectors_in(table)
    is_other = np.random.default_rng(0).random(len(ARTICLES)) < share
    with psycopg.connect(url) as connection:
        connection.cursor().executemany(
            "UPDATE cpe_entry SET concept_text = %s WHERE cpe_id = %s::uuid",
            list(zip(table["concept_text"].to_pylist(), IDS, strict=True)),
        )
    store(url, np.arange(len(IDS)), np.where(is_other[:, None], rotated(vectors), vectors))
    execute(url, "UPDATE cpe_entry SET created_at = '2026-01-01 00:00:00+00'")
    execute(
        url,
        "UPDATE cpe_entry SET created_at = '2026-05-02 10:00:00+00' WHERE cpe_id = ANY(%s::uuid[])",
        list(IDS[is_other]),
    )

    run = runs.refresh(settings)

    first, num = np.flatnonzero(is_other)[0], is_other.sum()
    naming = (
        f"{num} of {len(IDS):,} concepts have vectors of another space than the others",
        f"row {first} ({IDS[first]})",
        f"created at 2026-05-02T10:00:00 UTC ({num} of the {num} concepts",
    )
    assert_stopped(run, unharmed, at="concepts", by="vectors_go_with_their_texts", naming=naming)


def test_f17_vectors_of_the_texts_one_row_before(unharmed, source):
    settings, url = source
    store(url, np.arange(len(IDS)), np.roll(vectors_in(TABLE), 1, axis=0))

    run = runs.refresh(settings)

    naming = (f"{len(IDS):,} of {len(IDS):,} concepts fit the vectors 1 row later",)
    assert_stopped(run, unharmed, at="concepts", by="vectors_go_with_their_texts", naming=naming)


def shuffle_positions(url, articles):
    """Give the concepts of articles other positions; they still count from 0 without a gap."""
    rng = np.random.default_rng(1)
    rows = [np.flatnonzero(article == ARTICLES) for article in articles]
    pairs = [
        (int(at), cpe_id) for each in rows for at, cpe_id in zip(rng.permutation(len(each)), IDS[each], strict=True)
    ]
    with psycopg.connect(url) as connection:
        connection.cursor().executemany("UPDATE cpe_entry SET sequence_index = %s WHERE cpe_id = %s::uuid", pairs)


def test_f18_all_articles_in_random_order(unharmed, source):
    settings, url = source
    shuffle_positions(url, range(len(LENGTHS)))

    run = runs.refresh(settings)

    naming = ("the order of all articles looks random",)
    assert_stopped(run, unharmed, at="concepts", by="neighbours_are_close", naming=naming)
    assert run.checks["positions_have_no_gap"].passed


def test_f18_some_articles_in_random_order(unharmed, source):
    settings, url = source
    longest = [2, 10, 18]
    shuffle_positions(url, longest)

    run = runs.refresh(settings)

    assert_warned(run, unharmed, by="neighbours_are_close", naming=(f"of {len(LENGTHS)} articles looks random",))
    named = run.checks["neighbours_are_close"].metadata["details"].value["article_ids"]
    assert set(named) <= {TABLE["article_id"][int(np.flatnonzero(a == ARTICLES)[0])].as_py() for a in longest}
    assert "concepts" in run.materialised


def test_f19_near_duplicates_swallow_the_split(unharmed, source):
    settings, url = source
    firsts = np.flatnonzero(np.diff(ARTICLES, prepend=-1))[:60]
    for number, cpe_id in enumerate(IDS[firsts]):
        text = f"This page is licensed under the terms of the licence{'.' * number}"
        execute(url, "UPDATE cpe_entry SET concept_text = %s WHERE cpe_id = %s::uuid", text, cpe_id)

    run = runs.refresh(replace_minimum(settings))

    naming = ("near-duplicates join 60 of 64 articles to one group", TABLE["article_id"][int(firsts[2])].as_py())
    assert_stopped(run, unharmed, at="sequences", by="splits_have_their_share", naming=naming)


def replace_minimum(settings):
    return settings.model_copy(update={"min_validation_articles": 4, "min_validation_sequences": 80})


def test_f22_one_encoder_with_two_longest_texts(unharmed, source, tmp_path):
    settings, url = source
    folder, spaces = write_model_folder(tmp_path / "encoder"), []
    for longest in (384, 64):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
        spaces.append(space_of_folder(folder, name="encoder"))
    execute(url, "UPDATE cpe_vectors SET space_id = %s", spaces[0])
    rows = np.flatnonzero(ARTICLES % 4 == 3)
    execute(url, "UPDATE cpe_vectors SET space_id = %s WHERE cpe_id = ANY(%s::uuid[])", spaces[1], list(IDS[rows]))

    run = runs.refresh(settings)

    naming = (f"{spaces[0]} ({len(IDS) - len(rows)} vectors)", f"{spaces[1]} ({len(rows)} vectors)", "/seq-64@")
    assert_stopped(run, unharmed, at="concepts", by="vectors_match_their_space", naming=naming)


def test_f23_texts_that_were_cut_to_one_vector(unharmed, source):
    settings, url = source
    vectors = vectors_in(TABLE)
    store(url, [40], vectors[[20]])

    run = runs.refresh(settings.model_copy(update={"duplicates": "drop"}))

    naming = (f"{IDS[40]} (dropped) and {IDS[20]}",)
    assert_warned(run, unharmed, by="equal_vectors_have_equal_texts", naming=naming)


IN_CONCEPTS = "lvm_pipeline.concepts"
MUTATIONS = [
    Mutation(f"{IN_CONCEPTS}.text_invariants.vectors_go_with_their_texts", "test_f16_articles_of_another_space"),
    Mutation(
        f"{IN_CONCEPTS}.text_match._other_space", "test_f16_a_tenth_of_the_rows_of_another_space", lambda *_: None
    ),
    Mutation(f"{IN_CONCEPTS}.text_match._two_spaces", "test_f16_rows_of_another_space", lambda *_: None),
    Mutation(f"{IN_CONCEPTS}.text_match._shifted", "test_f17_vectors_of_the_texts_one_row_before", lambda *_: None),
    Mutation(f"{IN_CONCEPTS}.neighbours.neighbours_are_close", "test_f18_all_articles_in_random_order"),
    Mutation(f"{IN_CONCEPTS}.neighbours.neighbours_are_close", "test_f18_some_articles_in_random_order"),
    Mutation("lvm_pipeline.sequences.invariants.splits_have_their_share", "test_f19_near_duplicates_swallow_the_split"),
    Mutation(
        "lvm_pipeline.source.encoders.sentence_transformer._options_of_folder",
        "test_f22_one_encoder_with_two_longest_texts",
        lambda _: [],
    ),
    Mutation(
        f"{IN_CONCEPTS}.content_invariants.equal_vectors_have_equal_texts",
        "test_f23_texts_that_were_cut_to_one_vector",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_without_its_guard_the_fault_goes_unseen(mutation, request, monkeypatch):
    goes_unseen(globals()[mutation.test], mutation, request, monkeypatch)
