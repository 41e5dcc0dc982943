"""Each invariant passes on good data and names the exact offenders of a fault that was injected into the file."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.facts import read_facts
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.schema import METADATA_KEY, concepts_schema, read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity, blocking_failures
from lvm_pipeline_tests.synthetic import synthetic_table, write_table

LENGTHS = [6, 9, 7, 12]
NAMES = [
    "order_is_unambiguous",
    "articles_are_contiguous",
    "positions_have_no_gap",
    "every_concept_has_a_vector",
    "vectors_are_finite_and_of_one_width",
    "vectors_match_their_space",
    "cpe_ids_are_unique",
    "no_duplicate_concepts",
    "texts_are_not_empty",
    "tmd_codes_are_assigned",
    "tmd_packing_is_known",
    "articles_are_long_enough",
]


class FakeEncoder:
    """Gives back the vectors of a table by their texts, turned a little."""

    def __init__(self, table, *, space_id="synthetic", noise=0.0, vector_dim=None):
        self.space_id = space_id
        vectors = np.array(table["vector"].to_pylist(), np.float32)[:, :vector_dim]
        vectors += noise * np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
        self._vectors = dict(zip(table["concept_text"].to_pylist(), vectors, strict=True))

    def encode(self, texts):
        return np.stack([self._vectors[text] for text in texts])


@pytest.fixture
def table():
    """A table that breaks no invariant at all, warnings included."""
    good = synthetic_table(LENGTHS)
    return with_column(good, "modifier", [1 + row % 63 for row in range(good.num_rows)])


def with_column(table, name, values):
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def with_values(table, name, changes):
    values = table[name].to_pylist()
    for row, value in changes.items():
        values[row] = value
    return with_column(table, name, values)


def check(table, tmp_path, *, encoder=None, space_id="synthetic", **metadata):
    path = write_table(table, tmp_path / "concepts.parquet", space_id=space_id)
    if metadata:
        changed = replace(read_concepts_metadata(path), **metadata)
        pq.write_table(table.replace_schema_metadata(changed.as_parquet_metadata()), path)
    return {finding.name: finding for finding in check_concepts(path, encoder=encoder)}


def only_failure(findings):
    (name,) = (name for name, finding in findings.items() if not finding.passed)
    return findings[name]


def id_of(table, row):
    return f"row {row} ({table['cpe_id'][row]})"


def test_good_data_passes_every_invariant(table, tmp_path):
    findings = check(table, tmp_path, encoder=FakeEncoder(table))

    assert list(findings) == NAMES
    assert [name for name, finding in findings.items() if not finding.passed] == []
    assert [name for name, finding in findings.items() if not finding.was_checked] == ["order_is_unambiguous"]
    json.dumps([finding.as_json() for finding in findings.values()], allow_nan=False)


def test_an_accepted_order_warns_wherever_the_file_goes(table, tmp_path):
    finding = only_failure(check(table, tmp_path, order_warning="The order was accepted, not known."))

    assert finding.name == "order_is_unambiguous"
    assert finding.severity is Severity.WARNING
    assert "accepted" in finding.message


def test_an_article_in_two_runs_is_named_with_its_rows(table, tmp_path):
    order = [*range(2, 15), 0, 1, *range(15, 34)]
    torn = with_column(table.take(order), "row", range(34))

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
    assert f"1 rows are not numbered from 0 on, first {id_of(table, 5)}" in finding.message


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


def with_lists_of_any_width(table, changes):
    """The same table with a vector column that can miss vectors, which a fixed-size one cannot be read back with."""
    vectors = table["vector"].to_pylist()
    for row, value in changes.items():
        vectors[row] = value
    index = table.schema.get_field_index("vector")
    return table.set_column(index, "vector", pa.array(vectors, pa.list_(pa.float32())))


def check_lists(table, tmp_path, changes):
    path = write_table(table, tmp_path / "concepts.parquet")
    metadata = read_concepts_metadata(path).as_parquet_metadata()
    pq.write_table(with_lists_of_any_width(table, changes).replace_schema_metadata(metadata), path)
    return {finding.name: finding for finding in check_concepts(path)}


def test_missing_vectors_are_named(table, tmp_path):
    finding = only_failure(check_lists(table, tmp_path, {3: None, 20: None}))

    assert finding.name == "every_concept_has_a_vector"
    assert finding.observed == pytest.approx(32 / 34)
    assert finding.details["cpe_ids"] == [table["cpe_id"][row].as_py() for row in (3, 20)]
    assert f"2 of 34 concepts have no vector: {table['cpe_id'][3]}, {table['cpe_id'][20]}" in finding.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_vectors_that_are_not_finite_are_named(table, tmp_path, value):
    broken = with_values(table, "vector", {9: [value] + [0.1] * 31})

    finding = only_failure(check(broken, tmp_path))

    assert finding.name == "vectors_are_finite_and_of_one_width"
    assert finding.details["rows"] == [9]
    assert f"1 vectors hold NaN or infinity: {id_of(table, 9)}" in finding.message


def test_vectors_of_another_width_are_named(table, tmp_path):
    findings = check_lists(table, tmp_path, {2: [0.6, 0.8]})

    assert [finding.name for finding in blocking_failures(findings.values())] == ["vectors_are_finite_and_of_one_width"]
    assert f"{id_of(table, 2)} is 2 wide" in findings["vectors_are_finite_and_of_one_width"].message


def test_a_file_of_another_width_than_it_says_fails(table, tmp_path):
    finding = only_failure(check(table, tmp_path, vector_dim=768))

    assert finding.name == "vectors_are_finite_and_of_one_width"
    assert finding.observed == 34


def test_huge_but_finite_vectors_are_finite(table, tmp_path):
    findings = check(with_values(table, "vector", {4: [3e38] * 32}), tmp_path)

    assert findings["vectors_are_finite_and_of_one_width"].passed


@pytest.mark.parametrize(("factor", "words"), [(0.5, "another length"), (0.0, "length 0"), (1.2, "another length")])
def test_vectors_of_another_length_than_their_space_are_named(table, tmp_path, factor, words):
    short = [factor * number for number in table["vector"][11].as_py()]

    finding = only_failure(check(with_values(table, "vector", {11: short}), tmp_path))

    assert finding.name == "vectors_match_their_space"
    assert finding.details["rows"] == [11]
    assert words in finding.message
    assert id_of(table, 11) in finding.message


def test_a_space_that_is_not_of_unit_length_passes(table, tmp_path):
    longer = (3 * np.array(table["vector"].to_pylist(), np.float32)).tolist()

    assert check(with_column(table, "vector", longer), tmp_path)["vectors_match_their_space"].passed


def test_half_precision_is_still_unit_length(table, tmp_path):
    rounded = np.array(table["vector"].to_pylist(), np.float16).astype(np.float32).tolist()

    assert check(with_column(table, "vector", rounded), tmp_path)["vectors_match_their_space"].passed


def test_without_an_encoder_the_canaries_count_as_not_checked(table, tmp_path):
    finding = check(table, tmp_path)["vectors_match_their_space"]

    assert finding.passed
    assert not finding.was_checked


def test_texts_encoded_again_give_their_vectors(table, tmp_path):
    finding = check(table, tmp_path, encoder=FakeEncoder(table, noise=0.01))["vectors_match_their_space"]

    assert finding.passed
    assert finding.was_checked
    assert len(finding.details["cosines"]) == 16
    assert 0.99 <= finding.observed <= 1


def test_an_encoder_of_another_vector_space_is_caught(table, tmp_path):
    mirrored = with_column(table, "vector", [vector[::-1] for vector in table["vector"].to_pylist()])

    finding = only_failure(check(table, tmp_path, encoder=FakeEncoder(mirrored)))

    assert finding.name == "vectors_match_their_space"
    assert finding.severity is Severity.BLOCKING
    assert finding.observed < 0.9
    assert id_of(table, 0) in finding.message


def test_one_text_with_the_vector_of_another_is_caught_where_it_is_a_canary(table, tmp_path):
    encoder = FakeEncoder(table)
    swapped = with_values(table, "vector", {0: table["vector"][1].as_py(), 1: table["vector"][0].as_py()})

    finding = only_failure(check(swapped, tmp_path, encoder=encoder))

    assert "1 of 16 texts encoded again" in finding.message
    assert id_of(table, 0) in finding.message


def test_an_encoder_of_another_name_or_width_is_refused(table, tmp_path):
    other_name = only_failure(check(table, tmp_path, encoder=FakeEncoder(table, space_id="gtr-t5-base")))
    other_width = only_failure(check(table, tmp_path, encoder=FakeEncoder(table, vector_dim=16)))

    assert "vectors of gtr-t5-base, the table says synthetic" in other_name.message
    assert other_width.name == "vectors_match_their_space"
    json.dumps([other_name.as_json(), other_width.as_json()], allow_nan=False)


def test_an_undeclared_space_is_a_warning(table, tmp_path):
    finding = only_failure(check(table, tmp_path, space_id="undeclared-32"))

    assert finding.name == "vectors_match_their_space"
    assert finding.severity is Severity.WARNING


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

    finding = only_failure(check(with_values(table, column, {17: value, 25: value}), tmp_path))

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
    assert id_of(table, 6) in finding.message


def test_without_codes_their_packing_was_not_checked(table, tmp_path):
    bare = table
    for name in ("domain", "task", "modifier"):
        bare = with_column(bare, name, [None] * table.num_rows)

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

    finding = check(with_column(table, "concept_text", [""] * 100), tmp_path)["texts_are_not_empty"]

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

    with pytest.raises(LvmError, match="cannot be understood"):
        check_concepts(path)
