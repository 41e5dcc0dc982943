"""Servers and tables of other origin, read and loaded as they are found."""

import uuid

import numpy as np
import psycopg
import pytest
from psycopg import sql

from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.adapters.postgres_writer import PostgresWriter
from lvm_pipeline.concepts.extract import ExtractOptions
from lvm_pipeline.errors import LvmError
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
from lvm_pipeline_tests.adapters.test_postgres_writer import batch, query, with_user, write

pytestmark = pytest.mark.postgres


@pytest.fixture
def encoded_database(embedded_server):
    """Make databases of other encodings."""
    names = []

    def make(encoding):
        names.append(f"test_{uuid.uuid4().hex[:12]}")
        execute(
            embedded_server.url("postgres"),
            sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0").format(
                sql.Identifier(names[-1]), encoding
            ),
        )
        execute(embedded_server.url(names[-1]), "CREATE EXTENSION vector")
        return embedded_server.url(names[-1])

    yield make
    for name in names:
        execute(embedded_server.url("postgres"), sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"])
def test_a_database_of_another_encoding_is_loaded_and_read(encoded_database, tmp_path, encoding):
    url = encoded_database(encoding)
    given = batch()
    texts = [f"text {number}: " + ("日本" if encoding == "EUC_JP" else "Â£5 é") for number in range(3)]
    if encoding == "SQL_ASCII":
        texts = [f"text {number}" for number in range(3)]
    for concept, text in zip(given.concepts, texts, strict=True):
        object.__setattr__(concept, "text", text)
        object.__setattr__(concept, "title", "title")
    writer = PostgresWriter(url)

    assert write(writer, given) == 3

    assert len(writer.state("s").rows) == 3
    assert table_of(extract(url, tmp_path))["concept_text"].to_pylist() == texts


@pytest.mark.parametrize("how", ["PGCLIENTENCODING", "of the database", "in the URL"])
def test_the_encoding_of_clients_changes_nothing(database, tmp_path, monkeypatch, how):
    rows = with_changes(good_rows(), {0: {"concept_text": "Â£5"}})
    load(database, rows)
    url = database
    if how == "PGCLIENTENCODING":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    elif how == "in the URL":
        url = f"{database}?client_encoding=LATIN1"
    else:
        name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
        execute(database, sql.SQL("ALTER DATABASE {} SET client_encoding = 'LATIN1'").format(sql.Identifier(name)))

    texts = table_of(extract(url, tmp_path))["concept_text"].to_pylist()
    state = PostgresWriter(url).state("user_input")

    assert texts == texts_of(rows)
    assert len(state.rows) == 25
    if how == "of the database":
        execute(database, sql.SQL("ALTER DATABASE {} RESET client_encoding").format(sql.Identifier(name)))


def test_bytes_that_are_no_text_end_in_one_sentence(encoded_database, tmp_path):
    url = encoded_database("SQL_ASCII")
    load(url, good_rows())
    execute(
        url, r"UPDATE cpe_entry SET concept_text = E'caf\xe9' WHERE sequence_index = 3 AND document_id = 'article-1'"
    )

    for read in (lambda: extract(url, tmp_path), lambda: PostgresWriter(url).state("user_input")):
        with pytest.raises(LvmError, match="not UTF-8"):
            read()


def test_pgvector_in_another_schema_is_found(database, tmp_path):
    execute(database, "DROP EXTENSION vector", "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions")
    try:
        given = batch()
        writer = PostgresWriter(database)

        assert write(writer, given) == 3

        assert writer.state("s").rows[given.concepts[0].cpe_id].vector_digest is not None
        vectors = table_of(extract(database, tmp_path))["vector"].to_pylist()
        np.testing.assert_array_equal(np.array(vectors, np.float32), given.vectors)
        assert query(database, "SHOW search_path") == [('"$user", public',)]
    finally:
        execute(database, "DROP SCHEMA extensions CASCADE")


def test_positions_that_are_no_numbers_are_not_called_missing(database, tmp_path):
    rows = without(good_rows(), *set(ORDER_COLUMNS) - {"document_id", "sequence_index"})
    load(database, [{**row, "sequence_index": "p1"} for row in rows], entry_columns={"sequence_index": "text"})

    words = "25 of 25 rows have no document_id or sequence_index that is a whole number"
    assert words in failure_of(extract(database, tmp_path)).message


def test_a_parameter_of_the_url_that_the_driver_refuses_is_named(database):
    reader = PostgresReader(f"{database}?keepalives=soon")

    with pytest.raises(LvmError, match=r'invalid integer value "soon".*; correct LVM_DATABASE_URL'), reader.open():
        pass


def test_a_connection_that_the_server_ends_is_explained(database, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=1")

    words = r"canceling statement due to statement timeout\)"
    with pytest.raises(LvmError, match=words), PostgresReader(database).open():
        pass


@pytest.mark.parametrize("time", ["infinity", "-infinity", "0044-03-15 12:00 BC", "290000-01-01"])
def test_a_time_that_nothing_can_hold_is_missing(database, tmp_path, time):
    load(database, with_changes(good_rows(), {4: {"created_at": time}}))

    times = table_of(extract(database, tmp_path))["created_at"].to_pylist()

    assert [row for row, time in enumerate(times) if time is None] == [4]


def test_times_and_codes_may_be_text(database, tmp_path):
    rows = [
        {**row, "domain_code": str(number % 16), "created_at": "2025-01-02"} for number, row in enumerate(good_rows())
    ]
    load(database, rows, entry_columns={"domain_code": "text", "created_at": "text"})

    table = table_of(extract(database, tmp_path))

    assert table["domain"].to_pylist() == [number % 16 for number in range(25)]
    assert {time.isoformat() for time in table["created_at"].to_pylist()} == {"2025-01-02T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("column", "kind", "value", "words"),
    [
        ("domain_code", "text", "n/a", "cpe_entry.domain_code of concept {id} is 'n/a' and not a whole number"),
        ("domain_code", "bigint", 70000, "cpe_entry.domain_code of concept {id} is '70000' and not a whole number"),
        ("created_at", "text", "yesterday", "cpe_entry.created_at of concept {id} is 'yesterday' and not a time"),
        ("hard_negatives", "json", '["\\ud800"]', "cpe_entry.hard_negatives of concept {id} is .* and not JSON text"),
    ],
)
def test_an_optional_column_that_cannot_be_read_is_named(database, tmp_path, column, kind, value, words):
    load(database, with_changes(good_rows(), {4: {column: value}, 5: {column: None}}), entry_columns={column: kind})
    execute(database, f"UPDATE cpe_entry SET {column} = NULL WHERE cpe_id <> '{id_of('0#4')}'")

    with pytest.raises(LvmError, match=words.format(id=id_of("0#4"))):
        extract(database, tmp_path)


def test_a_time_column_of_another_type_is_named(database, tmp_path):
    rows = [{**row, "created_at": 1735689600} for row in good_rows()]
    load(database, rows, entry_columns={"created_at": "bigint"})

    with pytest.raises(
        LvmError, match=r"cpe_entry.created_at has the type int8, which is no time; make it timestamptz"
    ):
        extract(database, tmp_path)


def test_a_schema_that_the_user_may_not_use_is_named(database):
    load(database, good_rows())
    execute(
        database,
        "DROP ROLE IF EXISTS other_reader",
        "CREATE ROLE other_reader LOGIN PASSWORD 'secret-word'",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    )
    try:
        reader = PostgresReader(with_user(database, "other_reader", "secret-word"))
        with (
            pytest.raises(LvmError, match="The database user may not use the schema of cpe_entry; grant USAGE"),
            reader.open(),
        ):
            pass
    finally:
        execute(database, "DROP ROLE other_reader")


def test_the_escape_of_nul_in_json_is_left_out(database, tmp_path):
    rows = without(good_rows(), *set(ORDER_COLUMNS) - {"chunk_position"})
    for row in rows:
        row["chunk_position"]["article_title"] += "\0"
        row["hard_negatives"] = ["a\0b"]
    load(database, rows, entry_columns={"chunk_position": "json", "hard_negatives": "json"})

    table = table_of(extract(database, tmp_path))

    assert table["concept_text"].to_pylist() == texts_of(rows)
    assert table["hard_negatives"].to_pylist()[0] == ["a\0b"]


def test_a_chunk_position_may_be_json_in_a_text_column(database, tmp_path):
    rows = without(good_rows(), *set(ORDER_COLUMNS) - {"chunk_position"})
    load(database, shuffled(rows), entry_columns={"chunk_position": "text"})

    extraction = extract(database, tmp_path)

    assert extraction.metadata.order_key == "chunk_position (article_index, chunk_index)"
    assert table_of(extraction)["concept_text"].to_pylist() == texts_of(rows)


def test_text_in_chunk_position_that_is_no_json_is_no_order(database, tmp_path):
    rows = without(good_rows(), *set(ORDER_COLUMNS) - {"chunk_position"})
    load(database, [{**row, "chunk_position": "{first"} for row in rows], entry_columns={"chunk_position": "text"})

    assert "25 of 25 rows have no chunk_position.article_index" in failure_of(extract(database, tmp_path)).message


def test_a_document_for_every_row_is_passed_over(database, tmp_path):
    rows = [{**row, "document_id": row["cpe_id"], "sequence_index": 0} for row in good_rows()]
    load(database, rows)

    extraction = extract(database, tmp_path)

    assert extraction.metadata.order_key == "chunk_position (article_index, chunk_index)"
    assert len(set(table_of(extraction)["article_id"].to_pylist())) == 3
    (first,) = [each for each in extraction.findings if each.name == "order_is_unambiguous"]
    assert "each of the 25 rows has a document_id of its own" in first.details["tried"][0]["problem"]


@pytest.mark.parametrize("kinds", [("text", "text"), ("text", "uuid"), ("uuid", "text")])
def test_uuids_are_joined_whatever_their_case(database, tmp_path, kinds):
    load(database, good_rows(), entry_columns={"cpe_id": "text"})
    for table, kind in zip(("cpe_entry", "cpe_vectors"), kinds, strict=True):
        execute(database, f"ALTER TABLE {table} ALTER cpe_id TYPE {kind} USING upper(cpe_id)::{kind}")
    execute(database, *(["UPDATE cpe_entry SET cpe_id = lower(cpe_id)"] if kinds == ("text", "text") else []))

    assert table_of(extract(database, tmp_path)).num_rows == 25


def test_text_ids_that_differ_by_case_stay_apart(database, tmp_path):
    rows = with_changes(good_rows((6,)), {0: {"cpe_id": "aB"}, 1: {"cpe_id": "Ab"}})
    load(database, rows, entry_columns={"cpe_id": "text"})

    assert table_of(extract(database, tmp_path))["cpe_id"].to_pylist()[:2] == ["aB", "Ab"]


def test_rows_without_a_dataset_source_are_not_left_out_unsaid(database, tmp_path):
    load(database, with_changes(good_rows(), {4: {"dataset_source": None}, 5: {"dataset_source": None}}))

    with pytest.raises(
        LvmError, match=r"2 rows of cpe_entry have no dataset_source, others do: user_input \(23 rows\)"
    ):
        extract(database, tmp_path)

    assert table_of(extract(database, tmp_path, dataset_source="user_input", options=NAMED)).num_rows == 23


NAMED = ExtractOptions(article_column="document_id", position_column="sequence_index")


def test_a_dataset_source_may_be_an_enum(database, tmp_path):
    execute(database, "CREATE TYPE origin AS ENUM ('user_input', 'other')")
    try:
        load(database, good_rows(), entry_columns={"dataset_source": "origin"})

        assert table_of(extract(database, tmp_path)).num_rows == 25
        with pytest.raises(LvmError, match=r"cpe_entry.dataset_source has the type origin; .* text or varchar"):
            PostgresWriter(database).state("user_input")
    finally:
        execute(database, "DROP TABLE cpe_entry", "DROP TYPE origin")


def test_a_view_keeps_the_order_of_its_rows(database, tmp_path):
    rows = [{**row, "sequence_index": None} for row in without(good_rows(), "chunk_position", "batch_id", "created_at")]
    load(database, shuffled(rows))
    execute(
        database,
        "ALTER TABLE cpe_entry RENAME TO entries",
        "CREATE VIEW cpe_entry AS SELECT * FROM entries ORDER BY length(concept_text), concept_text",
    )

    extraction = extract(database, tmp_path, options=ExtractOptions(accept_table_order=True))

    assert table_of(extraction)["concept_text"].to_pylist() == texts_of(rows)


@pytest.mark.parametrize("table", ["cpe_entry", "cpe_vectors"])
def test_row_level_security_is_named(database, table):
    load(database, good_rows())
    execute(
        database,
        "DROP ROLE IF EXISTS secured_reader",
        "CREATE ROLE secured_reader LOGIN PASSWORD 'secret-word'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO secured_reader",
        "GRANT USAGE ON SCHEMA public TO secured_reader",
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
    )
    try:
        reader = PostgresReader(with_user(database, "secured_reader", "secret-word"))
        with pytest.raises(LvmError, match=f"Row-level security of the table {table} hides every row"), reader.open():
            pass
    finally:
        execute(database, "DROP OWNED BY secured_reader", "DROP ROLE secured_reader")


def test_a_table_whose_ids_are_text_is_loaded(database):
    execute(
        database,
        "CREATE TABLE cpe_entry (cpe_id text PRIMARY KEY, concept_text text, dataset_source text, document_id text, "
        "sequence_index int)",
        "CREATE TABLE cpe_vectors (cpe_id text, concept_vec vector, space_id text)",
        "INSERT INTO cpe_entry VALUES ('doc-1/4', 'a text', 's', 'doc-1', 4)",
    )
    writer = PostgresWriter(database)

    assert set(writer.state("s").rows) == {"doc-1/4"}
    assert write(writer, batch()) == 3
    assert len(writer.state("s").rows) == 4
