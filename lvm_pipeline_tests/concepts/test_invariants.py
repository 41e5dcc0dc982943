"""Each invariant passes on good data and names the exact offenders of a fault that was injected into the file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.facts import read_facts
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.schema import METADATA_KEY, concepts_schema
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity
from lvm_pipeline_tests.concepts.checked_tables import (
    FakeEncoder,
    check,
    id_of,
    only_failure,
    with_values,
)
from lvm_pipeline_tests.synthetic import synthetic_table, write_table
from lvm_pipeline_tests.worded import with_columns

NAMES = [
    "order_is_unambiguous",
    "articles_are_contiguous",
    "positions_have_no_gap",
    "cpe_ids_are_unique",
    "articles_are_long_enough",
    "neighbours_are_close",
    "every_concept_has_a_vector",
    "vectors_are_finite_and_of_one_width",
    "vectors_match_their_space",
    "vectors_go_with_their_texts",
    "no_duplicate_concepts",
    "equal_vectors_have_equal_texts",
    "texts_are_not_empty",
    "tmd_codes_are_assigned",
    "tmd_packing_is_known",
]


def test_good_data_passes_every_invariant(table, tmp_path):
    findings = check(table, tmp_path, encoder=FakeEncoder(table))

    assert list(findings) == NAMES
    assert [name for name, finding in findings.items() if not finding.passed] == []
    assert [name for name, finding in findings.items() if not finding.was_checked] == [
        "order_is_unambiguous",
        "neighbours_are_close",
        "vectors_go_with_their_texts",  # too few concepts
    ]
    json.dumps([finding.as_json() for finding in findings.values()], allow_nan=False)


def test_an_accepted_order_warns_wherever_the_file_goes(table, tmp_path):
    finding = only_failure(check(table, tmp_path, order_warning="The order was accepted, not known."))

    assert finding.name == "order_is_unambiguous"
    assert finding.severity is Severity.WARNING
    assert "accepted" in finding.message


def test_an_article_in_two_runs_is_named_with_its_rows(table, tmp_path):
    order = [*range(2, 15), 0, 1, *range(15, 34)]
    torn = with_columns(table.take(order), row=range(34))

    findings = check(torn, tmp_path)

    finding = findings["articles_are_contiguous"]
    assert not finding.passed
    assert finding.severity is Severity.BLOCKING
    assert finding.observed == 1
    assert finding.details["article_ids"] == [table["article_id"][0].as_py()]
    assert finding.details["rows"] == [13]
    assert f"{table['article_id'][0]} again at row 13" in finding.message


def test_rows_that_do_not_count_are_named(table, tmp_path):
    finding = only_failure(check(with_values(table, "row", {5: 4}), tmp_path))

    assert finding.name == "articles_are_contiguous"
    assert f"1 row has a wrong row number, first {id_of(table, 5)}" in finding.message


def test_an_article_index_that_does_not_count_is_named(table, tmp_path):
    finding = only_failure(check(with_values(table, "article_index", {7: 0}), tmp_path))

    assert finding.name == "articles_are_contiguous"
    assert id_of(table, 7) in finding.message


@pytest.mark.parametrize(
    ("positions", "row", "position", "expected"),
    [
        ([0, 1, 3, 4, 5, 6], 2, 3, 2),
        ([1, 2, 3, 4, 5, 6], 0, 1, 0),
        ([0, 1, 1, 2, 3, 4], 2, 1, 2),
        ([0, 2, 1, 3, 4, 5], 1, 2, 1),
        ([-1, 0, 1, 2, 3, 4], 0, -1, 0),
    ],
)
def test_gaps_repeats_and_swaps_of_positions_are_named(table, tmp_path, positions, row, position, expected):
    finding = only_failure(check(with_values(table, "position", dict(enumerate(positions))), tmp_path))

    assert finding.name == "positions_have_no_gap"
    assert finding.observed == 1
    article_id = table["article_id"][0].as_py()
    assert finding.details["articles"] == [
        {"article_id": article_id, "row": row, "position": position, "expected": expected}
    ]
    assert f"{article_id} (row {row} has position {position}, expected {expected})" in finding.message


@pytest.mark.parametrize("repeats", [[8], [8, 30]])
def test_repeated_ids_are_named_with_all_their_rows(table, tmp_path, repeats):
    cpe_id = table["cpe_id"][2].as_py()

    finding = only_failure(check(with_values(table, "cpe_id", dict.fromkeys(repeats, cpe_id)), tmp_path))

    assert finding.name == "cpe_ids_are_unique"
    assert finding.observed == 1
    assert finding.details["rows"] == {cpe_id: [2, *repeats]}
    assert f"{cpe_id} in rows {', '.join(map(str, [2, *repeats]))}" in finding.message


@pytest.mark.parametrize(("column", "same"), [("concept_text", "text"), ("vector", "vector")])
def test_repeated_concepts_are_named_with_the_earlier_one(table, tmp_path, column, same):
    value = table[column][4].as_py()

    findings = check(with_values(table, column, {17: value, 25: value}), tmp_path)
    assert findings.pop("equal_vectors_have_equal_texts").passed is (same == "text")
    finding = only_failure(findings)

    assert finding.name == "no_duplicate_concepts"
    assert finding.observed == 2
    assert [(found["row"], found["earlier_row"], found["same"]) for found in finding.details["concepts"]] == [
        (17, 4, same),
        (25, 4, same),
    ]
    assert f"{id_of(table, 17)} has the {same} of {id_of(table, 4)}" in finding.message


@pytest.mark.parametrize("empty", [None, "", " \n\t", "\u00a0"])
def test_empty_texts_are_named_and_are_no_duplicates(table, tmp_path, empty):
    finding = only_failure(check(with_values(table, "concept_text", {1: empty, 33: empty}), tmp_path))

    assert finding.name == "texts_are_not_empty"
    assert finding.details["rows"] == [1, 33]
    assert f"2 concepts have no text: {id_of(table, 1)}, {id_of(table, 33)}" in finding.message


@pytest.mark.parametrize(
    ("codes", "num_missing", "num_failed"), [((0, 0, 0), 0, 1), ((None, 3, 4), 1, 0), ((None, None, None), 1, 0)]
)
def test_codes_that_are_not_assigned_are_counted(table, tmp_path, codes, num_missing, num_failed):
    changed = table
    for name, code in zip(("domain", "task", "modifier"), codes, strict=True):
        changed = with_values(changed, name, {13: code})

    finding = only_failure(check(changed, tmp_path))

    assert finding.name == "tmd_codes_are_assigned"
    assert finding.severity is Severity.WARNING
    assert finding.observed == pytest.approx(1 / 34)
    assert (finding.details["num_missing"], finding.details["num_failed"]) == (num_missing, num_failed)
    assert finding.details["rows"] == [13]


@pytest.mark.parametrize(("name", "code"), [("domain", 16), ("task", 32), ("modifier", 64), ("domain", -5)])
def test_codes_out_of_their_range_are_named(table, tmp_path, name, code):
    finding = only_failure(check(with_values(table, name, {6: code}), tmp_path))

    assert finding.name == "tmd_packing_is_known"
    assert finding.severity is Severity.WARNING
    assert f"outside 0 to 15, 31, 63: {id_of(table, 6)}" in finding.message


def test_without_codes_their_packing_was_not_checked(table, tmp_path):
    bare = table
    for name in ("domain", "task", "modifier"):
        bare = with_columns(bare, **{name: [None] * table.num_rows})

    findings = check(bare, tmp_path)

    assert not findings["tmd_packing_is_known"].was_checked
    assert findings["tmd_codes_are_assigned"].observed == 1


def test_articles_too_short_for_a_sequence_are_named(tmp_path):
    short = synthetic_table([5, 6, 3])
    ids = list(dict.fromkeys(short["article_id"].to_pylist()))

    finding = check(short, tmp_path)["articles_are_long_enough"]

    assert not finding.passed
    assert finding.severity is Severity.WARNING
    assert finding.observed == 2
    assert finding.details["article_ids"] == [ids[0], ids[2]]
    assert f"{ids[0]} (5), {ids[2]} (3)" in finding.message


def test_long_lists_of_offenders_are_cut_and_still_counted(tmp_path):
    table = synthetic_table([100])

    finding = check(with_columns(table, concept_text=[""] * 100), tmp_path)["texts_are_not_empty"]

    assert finding.observed == 100
    assert len(finding.details["rows"]) == 20
    assert "and 80 more" in finding.message


def test_row_groups_change_nothing(table, tmp_path):
    path = write_table(with_values(table, "concept_text", {30: ""}), tmp_path / "one.parquet")
    many = tmp_path / "many.parquet"
    pq.write_table(pq.read_table(path), many, row_group_size=5)

    assert check_concepts(path) == check_concepts(many)


def test_a_table_without_rows_is_looked_at_without_a_crash(tmp_path):
    findings = check(synthetic_table([]), tmp_path)

    json.dumps([finding.as_json() for finding in findings.values()], allow_nan=False)


def test_a_foreign_column_type_is_refused_in_one_sentence(table, tmp_path):
    path = write_table(table, tmp_path / "concepts.parquet")
    metadata = pq.read_metadata(path).metadata
    foreign = pq.read_table(path).drop_columns(["position"])
    pq.write_table(foreign.replace_schema_metadata({METADATA_KEY: metadata[METADATA_KEY]}), path)

    with pytest.raises(LvmError, match="no column position"):
        read_facts(path)

    text_rows = pa.array([str(row) for row in range(34)])
    foreign = table.set_column(table.schema.get_field_index("row"), "row", text_rows)
    pq.write_table(foreign.replace_schema_metadata({METADATA_KEY: metadata[METADATA_KEY]}), path)
    with pytest.raises(LvmError, match=r"column row of .* is string, expected int64"):
        read_facts(path)


def test_a_file_of_others_is_refused(tmp_path):
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)

    with pytest.raises(LvmError, match="not written by this project"):
        check_concepts(path)


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"schema_version": 1}'])
def test_metadata_that_makes_no_sense_is_refused(tmp_path, raw):
    path = tmp_path / "concepts.parquet"
    pq.write_table(concepts_schema(4).empty_table().replace_schema_metadata({METADATA_KEY: raw}), path)

    with pytest.raises(LvmError, match="invalid metadata"):
        check_concepts(path)


def test_equal_vectors_of_different_texts_are_a_finding_of_their_own(tmp_path):
    """F23: two texts that begin alike have one vector if the encoder reads only their beginning."""
    table = synthetic_table([6, 9])
    vectors = table["vector"].to_pylist()
    vectors[9] = vectors[2]

    finding = check(with_columns(table, vector=vectors), tmp_path)["equal_vectors_have_equal_texts"]
    dropped = [{"cpe_id": "one", "kept_cpe_id": "other", "reason": "same vector"}]
    of_dropped = check(table, tmp_path, dropped=dropped)["equal_vectors_have_equal_texts"]

    assert finding.outcome == of_dropped.outcome == "warning"
    assert f"{table['cpe_id'][9]} and {table['cpe_id'][2]}" in finding.message
    assert "one (dropped) and other" in of_dropped.message
