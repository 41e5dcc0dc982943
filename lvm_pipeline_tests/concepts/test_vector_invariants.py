"""Missing, broken and foreign vectors are named exactly."""

import json

import numpy as np
import pytest

from lvm_pipeline.findings import Severity, blocking_failures
from lvm_pipeline_tests.concepts.checked_tables import (
    FakeEncoder,
    check,
    check_lists,
    id_of,
    only_failure,
    with_values,
)
from lvm_pipeline_tests.synthetic import synthetic_table
from lvm_pipeline_tests.worded import with_columns


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
    assert f"1 vector holds NaN or infinity: {id_of(table, 9)}" in finding.message


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

    assert check(with_columns(table, vector=longer), tmp_path)["vectors_match_their_space"].passed


def test_half_precision_is_still_unit_length(table, tmp_path):
    rounded = np.array(table["vector"].to_pylist(), np.float16).astype(np.float32).tolist()

    assert check(with_columns(table, vector=rounded), tmp_path)["vectors_match_their_space"].passed


def test_a_vector_that_most_concepts_share_is_reported(tmp_path):
    vectors = np.random.default_rng(7).standard_normal((320, 32)).astype(np.float32)
    vectors[:317] = vectors[0]
    table = with_columns(synthetic_table([20] * 16), vector=vectors.tolist())

    assert check(table, tmp_path)["no_duplicate_concepts"].observed == 316


def test_a_concept_without_a_text_is_not_encoded_again(table, tmp_path):
    silent = with_values(table, "concept_text", {0: "", 33: None})

    findings = check(silent, tmp_path, encoder=FakeEncoder(silent), is_from_sequences=True)

    assert set(findings["vectors_match_their_space"].details["cosines"]).isdisjoint({"0", "33"})


def test_an_encoder_that_has_nothing_to_encode_again_is_said_to_be_there(table, tmp_path):
    silent = with_columns(table, concept_text=[""] * 34)

    finding = check(silent, tmp_path, encoder=FakeEncoder(silent))["vectors_match_their_space"]

    assert not finding.was_checked
    assert "none of 16 concepts has both a text and a vector that can be compared" in finding.message


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
    mirrored = with_columns(table, vector=[vector[::-1] for vector in table["vector"].to_pylist()])

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
