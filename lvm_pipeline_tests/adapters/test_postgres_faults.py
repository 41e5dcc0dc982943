"""Source tables that are not as they should be, and databases that are not there."""

import psycopg
import pytest
from psycopg import sql

from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import blocking_failures
from lvm_pipeline_tests.adapters.source_tables import (
    DIM,
    execute,
    extract,
    failure_of,
    good_rows,
    id_of,
    load,
    table_of,
    with_changes,
    without,
)

pytestmark = pytest.mark.postgres


def test_concepts_without_a_vector_are_listed(database, tmp_path):
    load(database, with_changes(good_rows(), {4: {"vector": None}, 11: {"vector": None}}))

    finding = failure_of(extract(database, tmp_path))

    assert finding.name == "every_concept_has_a_vector"
    assert f"2 of 25 concepts have no vector: {id_of('0#4')}, {id_of('1#5')}" in finding.message


@pytest.mark.parametrize("vector_type", ["vector", "real[]", "jsonb"])
def test_vectors_of_mixed_widths_are_named(database, tmp_path, vector_type):
    load(database, with_changes(good_rows(), {4: {"vector": [0.6, 0.8]}}), vector_type=vector_type)

    finding = failure_of(extract(database, tmp_path))

    assert finding.name == "vectors_are_finite_and_of_one_width"
    assert f"{id_of('0#4')} (width 2)" in finding.message
    assert "1 of width 2, 24 of width 8" in finding.message


@pytest.mark.parametrize(
    ("vector_type", "number"), [("real[]", float("nan")), ("real[]", None), ("real[]", float("inf")), ("jsonb", None)]
)
def test_nan_and_infinity_are_found(database, tmp_path, vector_type, number):
    if number is None and vector_type == "jsonb":
        vector = "[" + ",".join(["null"] + ["0.1"] * (DIM - 1)) + "]"
    else:
        vector = [number] + [0.1] * (DIM - 1)
    load(database, with_changes(good_rows(), {7: {"vector": vector}}), vector_type=vector_type)

    extraction = extract(database, tmp_path)

    (finding,) = blocking_failures(check_concepts(extraction.path))
    assert finding.name == "vectors_are_finite_and_of_one_width"
    assert f"row 7 ({id_of('1#1')})" in finding.message


@pytest.mark.parametrize("text", ["not JSON", '{"a": 1}', '["x"]', "[[1], [2]]", "7"])
def test_text_that_is_no_vector_is_reported_with_its_concept(database, tmp_path, text):
    load(database, with_changes(good_rows(), {2: {"vector": text}}), vector_type="text")

    with pytest.raises(LvmError, match=rf"cpe_vectors.concept_vec of concept {id_of('0#2')} (is|contains)"):
        extract(database, tmp_path)

    assert list(tmp_path.glob("*.parquet")) == []


def test_vectors_of_two_spaces_are_not_mixed(database, tmp_path):
    load(database, good_rows())
    execute(database, sql.SQL("UPDATE cpe_vectors SET space_id = 'other@2' WHERE cpe_id = {}").format(id_of("0#0")))

    finding = failure_of(extract(database, tmp_path))

    assert finding.name == "vectors_match_their_space"
    assert "test@1 (24 vectors), other@2 (1 vector)" in finding.message


def test_a_vector_stored_twice_is_found_by_its_id(database, tmp_path):
    load(database, good_rows())
    execute(database, "INSERT INTO cpe_vectors SELECT * FROM cpe_vectors LIMIT 1")

    extraction = extract(database, tmp_path)

    assert "cpe_ids_are_unique" in [finding.name for finding in blocking_failures(check_concepts(extraction.path))]


def test_tmd_vectors_of_another_width_are_refused(database, tmp_path):
    load(database, good_rows())
    execute(
        database,
        "ALTER TABLE cpe_vectors ADD COLUMN tmd_dense real[]",
        "UPDATE cpe_vectors SET tmd_dense = '{1,2,3}'",
    )

    with pytest.raises(LvmError, match=r"cpe_vectors.tmd_dense holds a vector of width 3, expected 16"):
        extract(database, tmp_path)


@pytest.mark.parametrize(
    ("pack", "passed", "words"),
    [
        (lambda d, t, m: d << 11 | t << 6 | m, True, "all 25 packed"),
        (lambda d, t, m: ((d << 12 | t << 7 | m << 1) + 32768) % 65536 - 32768, False, "(25 are domain<<12"),
    ],
)
def test_the_packing_of_tmd_codes_is_reported(database, tmp_path, pack, passed, words):
    codes = [{"domain": 1 + n % 15, "task": 1 + n % 31, "modifier": 1 + n % 63} for n in range(25)]
    rows = [
        {**row, **{f"{name}_code": value for name, value in code.items()}, "tmd_bits": pack(*code.values())}
        for row, code in zip(good_rows(), codes, strict=True)
    ]
    load(database, rows)

    extraction = extract(database, tmp_path)

    finding = next(f for f in check_concepts(extraction.path) if f.name == "tmd_packing_is_known")
    assert finding.passed is passed
    assert finding.was_checked
    assert words in finding.message
    assert table_of(extraction)["modifier"].to_pylist() == [code["modifier"] for code in codes]


def test_packed_codes_that_are_no_numbers_are_not_compared(database, tmp_path):
    rows = [
        {**row, "domain_code": "1", "task_code": "2", "modifier_code": "3", "tmd_bits": bits}
        for row, bits in zip(good_rows(), ["x1", *[str(1 << 11 | 2 << 6 | 3)] * 24], strict=True)
    ]
    load(database, rows, entry_columns=dict.fromkeys(("domain_code", "tmd_bits"), "text"))

    finding = next(f for f in check_concepts(extract(database, tmp_path).path) if f.name == "tmd_packing_is_known")
    assert "all 24 packed" in finding.message


def test_a_code_that_is_no_number_is_named_also_beside_packed_codes(database, tmp_path):
    rows = [{**row, "domain_code": "n/a", "task_code": 2, "modifier_code": 3, "tmd_bits": 1} for row in good_rows()]
    load(database, rows, entry_columns={"domain_code": "text"})

    with pytest.raises(LvmError, match=r"cpe_entry\.domain_code of concept .* is 'n/a' and not a whole number"):
        extract(database, tmp_path)


def test_a_missing_table_is_reported_with_those_that_exist(database, tmp_path):
    execute(database, "CREATE TABLE other (x int)")

    with pytest.raises(LvmError, match=r"There is no table cpe_entry in the database \(tables: other\)"):
        extract(database, tmp_path)


@pytest.mark.parametrize("column", ["cpe_id", "concept_text"])
def test_a_missing_required_column_is_reported_with_those_that_exist(database, tmp_path, column):
    load(database, good_rows())
    execute(database, f"ALTER TABLE cpe_entry RENAME COLUMN {column} TO something")

    with pytest.raises(LvmError, match=rf"table cpe_entry has no column {column}; it has .*something"):
        extract(database, tmp_path)


def test_a_missing_vector_column_is_reported_with_both_tables(database, tmp_path):
    load(database, good_rows(), column="embedding")

    with pytest.raises(LvmError) as raised:
        extract(database, tmp_path)

    for words in ("There is no column concept_vec", "cpe_vectors has cpe_id, embedding, space_id", "LVM_VECTOR_COLUMN"):
        assert words in str(raised.value)
    assert table_of(extract(database, tmp_path, vector_column="embedding")).num_rows == 25


def test_a_missing_vector_table_is_reported(database, tmp_path):
    load(database, good_rows())
    execute(database, "DROP TABLE cpe_vectors")

    with pytest.raises(LvmError, match="there is no table cpe_vectors"):
        extract(database, tmp_path)


def test_a_column_that_holds_no_vectors_is_refused(database, tmp_path):
    load(database, good_rows())

    with pytest.raises(LvmError, match=r"cpe_vectors.cpe_id has the type uuid, which cannot be read as vectors"):
        extract(database, tmp_path, vector_column="cpe_id")


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("password", "wrong", "refuses the user or password"),
        ("dbname", "nothing", "There is no database"),
        ("port", "1", "No Postgres answers"),
        ("host", "nowhere.invalid", "No Postgres answers"),
    ],
)
def test_an_unreachable_database_is_reported_without_the_password(database, tmp_path, part, value, words):
    parts = {**psycopg.conninfo.conninfo_to_dict(database), "password": "s3cret-word", part: value}
    if part == "dbname":
        parts["password"] = psycopg.conninfo.conninfo_to_dict(database)["password"]
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parts)

    with pytest.raises(LvmError, match=words) as raised:
        extract(url, tmp_path)

    assert parts["password"] not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_error_inside_the_database_is_one_sentence(database, tmp_path):
    load(database, without(good_rows(), "document_id"), entry_columns={"chunk_position": "json"})
    execute(
        database,
        "CREATE FUNCTION broken() RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''it broke''; END'",
        "ALTER TABLE cpe_entry RENAME TO stored",
        "CREATE VIEW cpe_entry AS "
        "SELECT cpe_id, broken() AS concept_text, dataset_source, batch_id, created_at FROM stored",
    )

    with pytest.raises(LvmError, match=r"failed \(it broke\)") as raised:
        extract(database, tmp_path)

    assert "\n" not in str(raised.value)
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_connection_that_breaks_off_leaves_nothing(database, tmp_path):
    load(database, good_rows((40, 40, 40)))
    execute(database, "UPDATE cpe_entry SET concept_text = repeat(concept_text, 30000)")  # more than waits in a socket
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "

    with pytest.raises(LvmError, match="A query of the database") as raised:
        extract(database, tmp_path, progress=lambda done, total: execute(database, others + "pg_backend_pid()"))

    assert "\n" not in str(raised.value)
    assert list(tmp_path.glob("*.parquet")) == []
