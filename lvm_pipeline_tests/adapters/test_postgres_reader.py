"""What the reader makes of source tables as they are found, against a real Postgres."""

import json

import numpy as np
import psycopg
import pytest
import sqlalchemy

from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.adapters.postgres_tables import table_identifier
from lvm_pipeline.concepts.extract import ExtractOptions
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import blocking_failures
from lvm_pipeline.source.schema import source_metadata
from lvm_pipeline_tests.adapters.source_tables import (
    DIM,
    execute,
    extract,
    good_rows,
    id_of,
    load,
    table_of,
    texts_of,
    with_changes,
    without,
)

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("home", ["cpe_vectors", "cpe_entry"])
@pytest.mark.parametrize(
    "vector_type",
    ["vector", "vector(8)", "halfvec(8)", "real[]", "double precision[]", "numeric[]", "json", "jsonb", "text"],
)
def test_vectors_are_read_from_every_type_and_either_table(database, tmp_path, vector_type, home):
    rows = load(database, good_rows(), vector_type=vector_type, home=home)

    extraction = extract(database, tmp_path)

    vectors = np.array(table_of(extraction)["vector"].to_pylist(), np.float32)
    expected = np.array([row["vector"] for row in rows])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-3 if "half" in vector_type else 0)
    assert extraction.metadata.space_id == ("test@1" if home == "cpe_vectors" else f"undeclared-{DIM}")
    assert not blocking_failures(check_concepts(extraction.path))


def test_tables_of_this_project_are_read(database, tmp_path):
    engine = sqlalchemy.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    metadata = source_metadata()
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            metadata.tables["cpe_entry"].insert(),
            [
                {**row, "domain_code": 3, "task_code": 4, "modifier_code": 5, "soft_negatives": ["x"]}
                for row in without(good_rows(), "vector")
            ],
        )
        connection.execute(
            metadata.tables["cpe_vectors"].insert(),
            [
                {"cpe_id": row["cpe_id"], "concept_vec": row["vector"], "tmd_dense": [0.25] * 16, "space_id": "lsa@1"}
                for row in good_rows()
            ],
        )
    engine.dispose()

    table = table_of(extract(database, tmp_path))

    assert table["concept_text"].to_pylist() == texts_of(good_rows())
    assert table["cpe_id"].to_pylist() == [row["cpe_id"] for row in good_rows()]
    assert set(table["domain"].to_pylist()) == {3}
    assert set(table["task"].to_pylist()) == {4}
    assert set(table["modifier"].to_pylist()) == {5}
    assert table["tmd_dense"].to_pylist() == [[0.25] * 16] * 25
    assert table["soft_negatives"].to_pylist() == [["x"]] * 25
    assert table["hard_negatives"].null_count == 25
    assert table["created_at"][0].as_py().isoformat() == "2025-01-01T00:00:00+00:00"


def test_columns_that_only_some_tables_have_may_be_missing(database, tmp_path):
    rows = without(good_rows(), "created_at", "chunk_position", "batch_id", "dataset_source")
    load(database, rows)
    execute(database, "ALTER TABLE cpe_vectors DROP COLUMN space_id")

    extraction = extract(database, tmp_path, options=ExtractOptions(space_id="mine@1"))

    table = table_of(extraction)
    for name in ("domain", "task", "modifier", "tmd_dense", "soft_negatives", "hard_negatives", "created_at"):
        assert table[name].null_count == 25
    assert extraction.metadata.space_id == "mine@1"
    assert extraction.metadata.dataset_source == "(every row)"


@pytest.mark.parametrize(
    ("column_type", "value", "expected"),
    [
        ("jsonb", ["a", "b"], ["a", "b"]),
        ("jsonb", [], []),
        ("jsonb", None, None),
        ("jsonb", '"only one"', ["only one"]),
        ("jsonb", "null", None),
        ("jsonb", '["a", {"b": 1}]', ["a", '{"b": 1}']),
        ("text", "only one", ["only one"]),
        ("text", '["a", "b"]', ["a", "b"]),
        ("text", "[not JSON", ["[not JSON"]),
        ("text[]", "{a,b}", ["a", "b"]),
    ],
)
def test_negatives_are_lists_of_strings_however_they_are_kept(database, tmp_path, column_type, value, expected):
    rows = with_changes(good_rows(), {0: {"soft_negatives": value}})
    load(database, rows, entry_columns={"soft_negatives": column_type})

    assert table_of(extract(database, tmp_path))["soft_negatives"].to_pylist()[:2] == [expected, None]


def test_names_with_schema_case_and_quotes_are_only_names(database, tmp_path):
    execute(database, 'CREATE SCHEMA "my data"')
    entry, vectors = '"my data"."Entry; DROP TABLE x"', '"my data"."it""s"'
    load(database, good_rows(), entry=entry, home=vectors, column='vec"; --')

    extraction = extract(database, tmp_path, entry_table=entry, vector_table=vectors, vector_column='vec"; --')

    assert table_of(extraction).num_rows == 25


@pytest.mark.parametrize("name", ["", "a..b", '"open', "a.b.c.d", ".a"])
def test_invalid_table_names_are_refused(name):
    with pytest.raises(LvmError, match="not a table name"):
        table_identifier(name)


def test_a_filter_value_is_only_a_value(database, tmp_path):
    nasty = "x' OR '1'='1"
    load(
        database,
        [
            *good_rows(),
            *with_changes(
                good_rows((3,)), {n: {"cpe_id": id_of(f"other {n}"), "dataset_source": nasty} for n in range(3)}
            ),
        ],
    )

    extraction = extract(database, tmp_path, dataset_source=nasty)

    assert table_of(extraction).num_rows == 3
    assert extraction.metadata.dataset_source == nasty


def test_ids_of_different_types_are_joined(database, tmp_path):
    load(database, good_rows(), entry_columns={"cpe_id": "text"})
    execute(database, "ALTER TABLE cpe_vectors ALTER COLUMN cpe_id TYPE uuid USING cpe_id::uuid")

    assert table_of(extract(database, tmp_path)).num_rows == 25


def test_all_is_read_from_one_snapshot(database):
    load(database, good_rows())
    with PostgresReader(database).open() as table:
        execute(database, "DELETE FROM cpe_vectors", "DELETE FROM cpe_entry")

        assert table.describe().num_rows == 25
        assert table.describe().space_counts == {"test@1": 25}


def test_the_recorded_source_contains_no_password(database, tmp_path):
    load(database, good_rows())
    password = psycopg.conninfo.conninfo_to_dict(database)["password"]

    extraction = extract(database, tmp_path)

    assert "cpe_entry, cpe_vectors" in extraction.metadata.source
    assert password not in json.dumps(extraction.metadata.as_json())
    assert password not in repr(PostgresReader(database))


def with_source(rows, source, mark):
    return [
        {
            **row,
            "dataset_source": source,
            "cpe_id": id_of(f"{mark}{number}"),
            "document_id": f"{mark}-{row['document_id']}",
        }
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("sources", "wanted", "chosen"),
    [
        (("user_input", "factoid"), None, "user_input"),
        (("docstrings",), None, "docstrings"),
        (("user_input", "factoid"), "factoid", "factoid"),
    ],
)
def test_dataset_source_is_the_named_or_the_usual_or_the_only_one(database, tmp_path, sources, wanted, chosen):
    load(database, [row for mark, source in enumerate(sources) for row in with_source(good_rows(), source, mark)])

    extraction = extract(database, tmp_path, dataset_source=wanted)

    assert extraction.metadata.dataset_source == chosen
    assert extraction.metadata.num_concepts == 25


@pytest.mark.parametrize(
    ("sources", "wanted", "words"),
    [
        (("factoid", "ontology"), None, "several dataset sources: factoid (25 rows), ontology (25 rows)"),
        (
            ("factoid",),
            "user_input",
            "No row of cpe_entry has the dataset_source 'user_input' (it has factoid (25 rows))",
        ),
        ((), None, "cpe_entry holds no rows"),
    ],
)
def test_without_a_clear_choice_of_rows_what_exists_is_listed(database, tmp_path, sources, wanted, words):
    load(
        database,
        [row for mark, source in enumerate(sources) for row in with_source(good_rows(), source, mark)] or good_rows(),
    )
    if not sources:
        execute(database, "DELETE FROM cpe_vectors", "DELETE FROM cpe_entry")

    with pytest.raises(LvmError) as raised:
        extract(database, tmp_path, dataset_source=wanted)

    assert words in str(raised.value)
    assert list(tmp_path.glob("*.parquet")) == []
