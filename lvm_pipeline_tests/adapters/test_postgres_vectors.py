"""Vectors as tables hold them: arrays, JSON, text; what is no list of numbers is said to be what it is."""

import pytest

from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import blocking_failures
from lvm_pipeline_tests.adapters.source_tables import execute, extract, failure_of, good_rows, id_of, load, with_changes

pytestmark = pytest.mark.postgres


def test_an_array_of_two_dimensions_is_not_flattened(database, tmp_path):
    load(database, good_rows(), vector_type="real[]")
    execute(
        database,
        f"UPDATE cpe_vectors SET concept_vec = '{{{{1,2}},{{3,4}},{{5,6}},{{7,8}}}}' WHERE cpe_id = '{id_of('1#2')}'",
    )

    with pytest.raises(LvmError, match=rf"concept {id_of('1#2')} is an array of several dimensions \[1:4\]\[1:2\]"):
        extract(database, tmp_path)


def test_a_tmd_vector_of_two_dimensions_is_not_flattened(database, tmp_path):
    load(database, good_rows())
    halves = "{" + ",".join(["{1,2,3,4,5,6,7,8}"] * 2) + "}"
    execute(
        database,
        "ALTER TABLE cpe_vectors ADD COLUMN tmd_dense real[]",
        f"UPDATE cpe_vectors SET tmd_dense = '{halves}' WHERE cpe_id = '{id_of('1#2')}'",
    )

    words = rf"cpe_vectors.tmd_dense of concept {id_of('1#2')} is an array of several dimensions \[1:2\]\[1:8\]"
    with pytest.raises(LvmError, match=words):
        extract(database, tmp_path)


@pytest.mark.parametrize("vector_type", ["jsonb", "text"])
def test_a_json_null_is_a_missing_vector(database, tmp_path, vector_type):
    load(database, with_changes(good_rows(), {4: {"vector": "null"}}), vector_type=vector_type)

    finding = failure_of(extract(database, tmp_path))

    assert finding.name == "every_concept_has_a_vector"
    assert id_of("0#4") in finding.message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"0": 1, "1": 2}', "is not a list of numbers but dict"),
        ('"12345678"', "is not a list of numbers but str"),
        ("[true, false, true, true, true, true, true, true]", "contains a value that is not a number"),
        ("[[1, 2], [3, 4]]", "is a nested list"),
        ("[1, 2", "is not JSON"),
    ],
)
def test_a_json_vector_is_a_list_of_numbers(database, tmp_path, value, words):
    load(database, with_changes(good_rows(), {4: {"vector": value}}), vector_type="text")

    with pytest.raises(LvmError, match=f"cpe_vectors.concept_vec of concept {id_of('0#4')} {words}"):
        extract(database, tmp_path)


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_of_many_digits_ends_in_one_sentence(database, tmp_path, digits):
    load(
        database,
        with_changes(good_rows(), {4: {"vector": f"[{'9' * digits}, 1, 1, 1, 1, 1, 1, 1]"}}),
        vector_type="text",
    )

    if digits == 5000:
        with pytest.raises(LvmError, match="a number of thousands of digits"):
            extract(database, tmp_path)
    else:
        extraction = extract(database, tmp_path)
        (finding,) = blocking_failures(check_concepts(extraction.path))
        assert finding.name == "vectors_are_finite_and_of_one_width"
        assert id_of("0#4") in finding.message
