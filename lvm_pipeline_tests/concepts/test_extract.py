import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.ordering import AmbiguousArticle, KeyFacts
from lvm_pipeline.concepts.reader import PackedCodes
from lvm_pipeline.concepts.schema import concepts_schema, read_concepts_metadata
from lvm_pipeline.concepts.store import read_vectors
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity, blocking_failures
from lvm_pipeline_tests.concepts.memory_source import MemorySource, source_rows


def extract(tmp_path, rows, *, options=None, progress=None, **source):
    path = tmp_path / "staged.parquet"
    return extract_concepts(
        MemorySource(rows, **source), options=options or ExtractOptions(), staged_path=path, progress=progress
    )


def failed(extraction):
    """The names of the blocking findings that failed; nothing may be left where there is one."""
    names = [finding.name for finding in blocking_failures(extraction.findings)]
    if names:
        assert extraction.path is None
        assert extraction.metadata is None
    return names


def message_of(extraction, name):
    return next(finding for finding in extraction.findings if finding.name == name).message


def test_every_row_arrives_in_order_with_what_the_file_says_of_itself(tmp_path):
    rows = source_rows([3, 8, 1, 6])

    extraction = extract(tmp_path, rows)

    table = pq.read_table(extraction.path)
    assert table.schema.equals(concepts_schema(4))
    assert table["row"].to_pylist() == list(range(18))
    for name in ("cpe_id", "article_id", "concept_text"):
        assert table[name].to_pylist() == [row[name] for row in rows]
    assert table["article_index"].to_pylist() == [0] * 3 + [1] * 8 + [2] + [3] * 6
    assert table["position"].to_pylist() == [row["source_position"] for row in rows]
    np.testing.assert_array_equal(read_vectors(extraction.path), np.array([row["vector"] for row in rows], np.float32))
    metadata = read_concepts_metadata(extraction.path)
    assert metadata == extraction.metadata
    assert (metadata.num_concepts, metadata.num_articles, metadata.num_source_rows, metadata.vector_dim) == (
        18,
        4,
        18,
        4,
    )
    assert metadata.order_key == "document_id, sequence_index"
    assert metadata.space_id == "synthetic"
    assert not blocking_failures(check_concepts(extraction.path))


def test_optional_columns_keep_their_values_and_their_nulls(tmp_path):
    rows = source_rows([2])
    rows[0] |= {"domain": 15, "task": 31, "modifier": 63, "tmd_dense": [0.5] * 16, "soft_negatives": ["a", "b"]}

    table = pq.read_table(extract(tmp_path, rows).path)

    assert table["domain"].to_pylist() == [15, None]
    assert table["tmd_dense"].to_pylist() == [[0.5] * 16, None]
    assert table["soft_negatives"].to_pylist() == [["a", "b"], None]


@settings(max_examples=15)  # each writes two tables; `test_kept` compares the bytes of more sizes
@given(st.lists(st.integers(1, 12), min_size=1, max_size=10), st.integers(1, 9), st.integers(1, 9))
def test_batch_size_does_not_change_the_result(tmp_path_factory, lengths, one_size, other_size):
    rows = source_rows(lengths)

    one, other = (
        extract(tmp_path_factory.mktemp("cut"), rows, batch_rows=size).metadata.fingerprint
        for size in (one_size, other_size)
    )

    assert one == other


def swapped(rows):
    return [rows[1], rows[0], *rows[2:]]


def in_other_article(rows):
    return [*rows[:3], {**rows[3], "article_id": rows[0]["article_id"]}, *rows[4:]]


def with_other_vector(rows):
    return [{**rows[0], "vector": rows[0]["vector"][::-1]}, *rows[1:]]


@pytest.mark.parametrize("change", [swapped, in_other_article, with_other_vector])
def test_fingerprint_changes_with_order_articles_and_vectors(tmp_path, change):
    rows = source_rows([3, 4])

    before = extract(tmp_path, rows).metadata.fingerprint

    assert extract(tmp_path, change(rows)).metadata.fingerprint != before


def test_numbers_from_one_become_numbers_from_zero(tmp_path):
    table = pq.read_table(extract(tmp_path, source_rows([3, 2], first_position=1)).path)

    assert table["position"].to_pylist() == [0, 1, 2, 0, 1]


def test_a_missing_concept_stays_a_gap_for_the_invariant_to_find(tmp_path):
    rows = source_rows([6, 6])
    del rows[8]

    extraction = extract(tmp_path, rows)

    findings = {finding.name: finding for finding in check_concepts(extraction.path)}
    assert [finding.name for finding in blocking_failures(findings.values())] == ["positions_have_no_gap"]
    assert "article-001 (row 8 has position 3, expected 2)" in findings["positions_have_no_gap"].message


def repeated(rows):
    """An article range loaded twice, under another article, and one vector under another text."""
    again = [{**row, "cpe_id": f"again-{row['cpe_id']}", "article_id": "article-999"} for row in rows[:4]]
    return [*rows[:5], {**rows[5], "vector": rows[0]["vector"]}, *rows[6:], *again]


def test_duplicates_are_kept_for_the_invariant_by_default(tmp_path):
    extraction = extract(tmp_path, repeated(source_rows([4, 6])))

    assert extraction.metadata.num_concepts == 14
    finding = next(f for f in check_concepts(extraction.path) if f.name == "no_duplicate_concepts")
    assert finding.observed == 5
    assert finding.details["num_same_text"] == 4


def test_dropping_duplicates_keeps_the_first_and_lists_the_others(tmp_path):
    extraction = extract(tmp_path, repeated(source_rows([4, 6])), options=ExtractOptions(duplicates="drop"))

    table = pq.read_table(extraction.path)
    assert table["cpe_id"].to_pylist() == [f"concept-{n:05}" for n in range(10) if n != 5]
    assert table["position"].to_pylist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert extraction.metadata.dropped == [
        {"cpe_id": "concept-00005", "kept_cpe_id": "concept-00000", "reason": "same vector"},
        *(
            {"cpe_id": f"again-concept-{n:05}", "kept_cpe_id": f"concept-{n:05}", "reason": "same text"}
            for n in range(4)
        ),
    ]
    assert extraction.metadata.num_source_rows == 14
    assert extraction.metadata.num_articles == 2, "an article that was dropped whole is no article"
    assert not blocking_failures(check_concepts(extraction.path))


def test_dropping_a_duplicate_does_not_hide_a_gap(tmp_path):
    rows = source_rows([6])
    rows[1]["concept_text"] = rows[0]["concept_text"]
    del rows[3]

    extraction = extract(tmp_path, rows, options=ExtractOptions(duplicates="drop"))

    assert pq.read_table(extraction.path)["position"].to_pylist() == [0, 1, 3, 4]
    assert "positions_have_no_gap" in [f.name for f in blocking_failures(check_concepts(extraction.path))]


def test_missing_vectors_are_counted_and_listed(tmp_path):
    rows = source_rows([30, 30])
    for row in rows[5:30]:
        row["vector"] = None

    extraction = extract(tmp_path, rows)

    assert failed(extraction) == ["every_concept_has_a_vector"]
    assert not (tmp_path / "staged.parquet").exists()
    message = message_of(extraction, "every_concept_has_a_vector")
    assert message.startswith("25 of 60 concepts have no vector: concept-00005, concept-00006,")
    assert "concept-00024 and 5 more" in message


def test_other_widths_are_counted_and_the_rarer_ones_named(tmp_path):
    rows = source_rows([10])
    rows[0]["vector"] = [1.0, 0.0]
    rows[7]["vector"] = [1.0, 0.0, 0.0]

    extraction = extract(tmp_path, rows)

    assert failed(extraction) == ["vectors_are_finite_and_of_one_width"]
    message = message_of(extraction, "vectors_are_finite_and_of_one_width")
    assert "1 of width 2, 1 of width 3, 8 of width 4" in message
    assert "concept-00000 (width 2), concept-00007 (width 3)" in message


def test_empty_vectors_are_no_vectors(tmp_path):
    rows = source_rows([2])
    for row in rows:
        row["vector"] = []

    assert failed(extract(tmp_path, rows)) == ["vectors_are_finite_and_of_one_width"]


def test_without_an_order_nothing_is_read(tmp_path):
    facts = KeyFacts(
        num_rows=5,
        num_keyed=5,
        num_articles=1,
        num_tied=1,
        tied=(AmbiguousArticle(article_id="article-000", num_rows=5, num_distinct=1),),
    )

    extraction = extract(tmp_path, source_rows([5]), facts=facts, failure=AssertionError("read"))

    assert failed(extraction) == ["order_is_unambiguous"]


@pytest.mark.parametrize(
    ("counts", "wanted", "space_id"),
    [
        ({"gtr@1": 5}, None, "gtr@1"),
        ({"gtr@1": 5}, "gtr@1", "gtr@1"),
        ({None: 5}, "gtr@1", "gtr@1"),
        ({"gtr@1": 3, None: 2}, "gtr@1", "gtr@1"),
        ({None: 5}, None, "undeclared-4"),
        ({"gtr@1": 3, "lsa@2": 2}, "gtr@1", None),
        ({"gtr@1": 5}, "lsa@2", None),
        ({"gtr@1": 3, None: 2}, None, None),
    ],
)
def test_space_is_what_table_and_setting_agree_on(tmp_path, counts, wanted, space_id):
    extraction = extract(tmp_path, source_rows([5]), space_counts=counts, options=ExtractOptions(space_id=wanted))

    if space_id is None:
        assert failed(extraction) == ["vectors_match_their_space"]
        assert "gtr@1" in message_of(extraction, "vectors_match_their_space")
    else:
        assert extraction.metadata.space_id == space_id


def test_an_undeclared_space_is_a_warning(tmp_path):
    extraction = extract(tmp_path, source_rows([7]), space_counts={None: 7})

    finding = next(f for f in check_concepts(extraction.path) if f.name == "vectors_match_their_space")
    assert not finding.passed
    assert finding.severity is Severity.WARNING
    assert "LVM_SPACE_ID" in finding.message


def test_the_other_packing_is_a_warning_that_the_file_remembers(tmp_path):
    extraction = extract(tmp_path, source_rows([7]), packed_codes=PackedCodes(num_rows=7, num_known=3, num_shifted=4))

    finding = next(f for f in check_concepts(extraction.path) if f.name == "tmd_packing_is_known")
    assert not finding.passed
    assert finding.severity is Severity.WARNING
    assert "4 of 7 packed TMD codes are not" in finding.message


def test_progress_counts_rows_up_to_all(tmp_path):
    calls = []

    extract(tmp_path, source_rows([4, 4, 4]), batch_rows=5, progress=lambda done, total: calls.append((done, total)))

    assert [total for _, total in calls] == [12] * len(calls)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (12, 12)
    assert len(calls) > 1


def test_a_source_that_breaks_off_leaves_nothing(tmp_path):
    with pytest.raises(LvmError, match="gone"):
        extract(tmp_path, source_rows([4, 4]), failure=LvmError("The database is gone."))

    assert list(tmp_path.iterdir()) == []


def test_a_row_without_an_id_is_refused(tmp_path):
    rows = source_rows([3])
    rows[1]["cpe_id"] = None

    with pytest.raises(LvmError, match="1 row has no cpe_id"):
        extract(tmp_path, rows)

    assert list(tmp_path.iterdir()) == []


def test_a_source_without_rows_is_refused(tmp_path):
    with pytest.raises(LvmError, match="no rows"):
        extract(tmp_path, [])
