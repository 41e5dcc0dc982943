"""How the order of source tables is decided, against a real Postgres."""

import pytest
from psycopg import sql

from lvm_pipeline.concepts.extract import ExtractOptions
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.findings import Severity, blocking_failures
from lvm_pipeline_tests.adapters.source_tables import (
    ORDER_COLUMNS,
    execute,
    extract,
    failure_of,
    good_rows,
    id_of,
    load,
    shuffled,
    table_of,
    texts_of,
    with_changes,
    without,
)

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize(
    ("left_out", "order_key"),
    [
        ((), "document_id, sequence_index"),
        (("document_id",), "chunk_position (article_index, chunk_index)"),
        (("sequence_index", "chunk_position"), "batch_id, created_at"),
    ],
)
def test_every_rule_restores_the_order(database, tmp_path, left_out, order_key):
    load(database, shuffled(without(good_rows(), *left_out)))

    extraction = extract(database, tmp_path)

    assert extraction.metadata.order_key == order_key
    table = table_of(extraction)
    by_article = {}
    for row in table.select(["article_id", "position", "concept_text"]).to_pylist():
        by_article.setdefault(row["article_id"], []).append((row["position"], row["concept_text"]))
    expected = [[(p, f"Text {p} of article {article}.") for p in range(n)] for article, n in enumerate((6, 7, 12))]
    assert sorted(by_article.values()) == sorted(expected)
    assert not blocking_failures(check_concepts(extraction.path))


@pytest.mark.parametrize("write", [str, int, lambda n: f" {n}.0 "])
def test_numbers_in_chunk_positions_may_be_strings_and_ten_comes_after_nine(database, tmp_path, write):
    rows = without(good_rows(), *set(ORDER_COLUMNS) - {"chunk_position"})
    for row in rows:
        position = row["chunk_position"]
        row["chunk_position"] = {
            **position,
            "article_index": write(position["article_index"]),
            "chunk_index": write(position["chunk_index"]),
        }
    load(database, shuffled(rows))

    table = table_of(extract(database, tmp_path))

    assert table["concept_text"].to_pylist() == texts_of(rows)
    assert table["article_id"].to_pylist() == ["0"] * 6 + ["1"] * 7 + ["2"] * 12


def test_an_empty_chunk_position_is_no_order(database, tmp_path):
    rows = without(good_rows(), "document_id", "batch_id")
    load(database, [{**row, "chunk_position": {"index": 0, "source": "web_input"}} for row in rows])

    finding = failure_of(extract(database, tmp_path))

    assert finding.name == "order_is_unambiguous"
    assert "25 of 25 rows have no chunk_position.article_index or chunk_position.chunk_index" in finding.message


def test_equal_times_of_one_insert_are_no_order(database, tmp_path):
    rows = without(good_rows((6, 7, 5)), "document_id", "chunk_position")
    for row in rows[6:]:
        row["created_at"] = "2025-02-02 00:00:00+00"
    load(database, rows)

    finding = failure_of(extract(database, tmp_path))

    assert finding.name == "order_is_unambiguous"
    assert finding.severity is Severity.BLOCKING
    assert finding.observed == 2
    for article, length in ((1, 7), (2, 5)):
        assert f"{id_of(f'batch {article}')} ({length} rows, 1 distinct)" in finding.message
    assert id_of("batch 0") not in finding.message


def test_rows_without_a_batch_are_not_one_article(database, tmp_path):
    rows = without(good_rows(), "document_id", "chunk_position")
    load(database, with_changes(rows, {3: {"batch_id": None}, 20: {"batch_id": None}}))

    finding = failure_of(extract(database, tmp_path))

    assert "2 of 25 rows have no batch_id or created_at" in finding.message


@pytest.mark.parametrize("witness", ["document_id", "chunk_position"])
def test_a_request_page_of_several_articles_is_not_one_article(database, tmp_path, witness):
    rows = without(good_rows(), "sequence_index", *{"document_id", "chunk_position"} - {witness})
    for number, row in enumerate(rows):
        row |= {"batch_id": id_of("page"), "created_at": f"2025-01-01 00:00:{number:02}+00"}
        if witness == "chunk_position":
            row["chunk_position"] = {"article_title": row["chunk_position"]["article_title"]}
    load(database, rows)

    finding = failure_of(extract(database, tmp_path))

    assert finding.name == "order_is_unambiguous"
    assert f"{id_of('page')} (25 rows, 3 values)" in finding.message


def test_article_numbers_that_start_again_are_no_articles(database, tmp_path):
    rows = without(good_rows((6, 6)), "document_id", "batch_id")
    for row in rows[6:]:
        row["chunk_position"]["article_index"] = 0
        row["chunk_position"]["chunk_index"] += 6
    load(database, rows)

    finding = failure_of(extract(database, tmp_path))

    assert "chunk_position.article_index holds several articles" in finding.message


def test_a_tie_of_equal_texts_is_a_duplicate_and_not_an_unknown_order(database, tmp_path):
    rows = good_rows()
    again = [{**row, "cpe_id": id_of(f"again {number}")} for number, row in enumerate(rows[:6])]
    load(database, [*rows, *again])

    kept = extract(database, tmp_path)
    findings = {finding.name: finding for finding in check_concepts(kept.path)}
    dropped = extract(database, tmp_path, options=ExtractOptions(duplicates="drop"))

    assert findings["order_is_unambiguous"].passed
    assert findings["no_duplicate_concepts"].observed == 6
    assert table_of(dropped)["concept_text"].to_pylist() == texts_of(rows)
    assert len(dropped.metadata.dropped) == 6
    assert not blocking_failures(check_concepts(dropped.path))


def test_a_deleted_concept_is_found_as_a_gap(database, tmp_path):
    load(database, good_rows())
    execute(database, sql.SQL("DELETE FROM cpe_entry WHERE cpe_id = {}").format(id_of("1#3")))

    extraction = extract(database, tmp_path)

    (finding,) = blocking_failures(check_concepts(extraction.path))
    assert finding.name == "positions_have_no_gap"
    assert "article-1 (row 9 has position 4, expected 3)" in finding.message


@pytest.mark.parametrize("position_type", ["integer", "text", "double precision"])
def test_named_columns_order_by_number(database, tmp_path, position_type):
    rows = [{**row, "page": row["document_id"], "line": row["sequence_index"] + 1} for row in good_rows()]
    rows = without(rows, *ORDER_COLUMNS)
    load(database, shuffled(rows), entry_columns={"page": "text", "line": position_type})

    extraction = extract(database, tmp_path, options=ExtractOptions(article_column="page", position_column="line"))

    assert table_of(extraction)["concept_text"].to_pylist() == texts_of(rows)
    assert table_of(extraction)["position"].to_pylist() == [*range(6), *range(7), *range(12)]
    assert extraction.metadata.order_key == "page, line"


def test_named_columns_that_run_through_the_table_rank(database, tmp_path):
    rows = [{**row, "page": index // 100, "line": 1000 + 3 * index} for index, row in enumerate(good_rows())]
    for row in rows:
        row["page"] = int(row["document_id"][-1])
    rows = without(rows, *ORDER_COLUMNS)
    load(database, shuffled(rows), entry_columns={"page": "integer", "line": "bigint"})

    table = table_of(extract(database, tmp_path, options=ExtractOptions(article_column="page", position_column="line")))

    assert table["concept_text"].to_pylist() == texts_of(rows)
    assert table["position"].to_pylist() == [*range(6), *range(7), *range(12)]


def test_the_order_of_the_table_is_taken_only_when_accepted_and_says_so(database, tmp_path):
    rows = without(good_rows(), "document_id", "chunk_position")
    for row in rows:
        row["created_at"] = "2025-02-02 00:00:00+00"
    load(database, rows)

    extraction = extract(database, tmp_path, options=ExtractOptions(accept_table_order=True))

    by_batch = sorted(rows, key=lambda row: row["batch_id"])
    assert table_of(extraction)["concept_text"].to_pylist() == texts_of(by_batch)
    assert "accepted, not verified" in extraction.metadata.order_warning
    finding = check_concepts(extraction.path)[0]
    assert (finding.name, finding.passed, finding.severity) == ("order_is_unambiguous", False, Severity.WARNING)


@pytest.mark.parametrize(
    "position_of",
    [lambda position, _: 437 * position, lambda position, _: 10 * position, lambda position, _: position + 4],
    ids=["character offsets", "steps of ten", "page numbers"],
)
def test_a_named_column_that_does_not_count_by_ones_ranks(database, tmp_path, position_of):
    rows = [{**row, "at": position_of(row["sequence_index"], row)} for row in good_rows()]
    rows = [{**row, "page": row["document_id"]} for row in rows]
    load(database, shuffled(without(rows, *ORDER_COLUMNS)), entry_columns={"page": "text", "at": "integer"})

    extraction = extract(database, tmp_path, options=ExtractOptions(article_column="page", position_column="at"))

    assert table_of(extraction)["concept_text"].to_pylist() == texts_of(rows)
    assert table_of(extraction)["position"].to_pylist() == [*range(6), *range(7), *range(12)]
    assert not blocking_failures(check_concepts(extraction.path))
    assert extraction.metadata.order_warning is None


def test_a_named_column_with_a_few_gaps_ranks_and_warns(database, tmp_path):
    rows = without(good_rows(), "chunk_position")
    load(database, rows)
    execute(database, sql.SQL("DELETE FROM cpe_entry WHERE cpe_id = {}").format(id_of("1#3")))
    options = ExtractOptions(article_column="document_id", position_column="sequence_index")

    extraction = extract(database, tmp_path, options=options)

    findings = check_concepts(extraction.path)
    assert not blocking_failures(findings)
    assert table_of(extraction)["position"].to_pylist() == [*range(6), *range(6), *range(12)]
    assert "in 1 article sequence_index does not count by ones" in extraction.metadata.order_warning
    assert findings[0].severity is Severity.WARNING
