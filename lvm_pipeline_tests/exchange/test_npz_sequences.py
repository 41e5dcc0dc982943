"""Sequences from exchange files: with their articles, and without them in compatibility mode."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import read_columns, read_vectors
from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange import npz_import
from lvm_pipeline.exchange.npz_export import export_npz
from lvm_pipeline.exchange.npz_import import import_sequences_npz
from lvm_pipeline.findings import Severity, blocking_failures
from lvm_pipeline.sequences.schema import read_sequences
from lvm_pipeline_tests.exchange.npz_files import LENGTHS, original_sequences, with_entry, write_npz
from lvm_pipeline_tests.synthetic import (
    write_synthetic_sequences,
)


def test_exported_sequences_come_back_with_articles_and_splits(exported, concepts_path, sequences_path, tmp_path):
    findings = import_sequences_npz(exported[2], tmp_path / "c.parquet", tmp_path / "s.parquet")

    before, after = read_sequences(sequences_path), read_sequences(tmp_path / "s.parquet")
    vectors, again = read_vectors(concepts_path), read_vectors(tmp_path / "c.parquet")
    assert {finding.name for finding in findings if not finding.passed} <= {"splits_have_their_share"}  # they are few
    assert not after.metadata.is_leaking
    assert (after.metadata.split_rule, after.metadata.split_seed) == ("seeded_hash", before.metadata.split_seed)
    assert after.article_ids.tolist() == before.article_ids.tolist()
    assert after.splits.tolist() == before.splits.tolist()
    assert len(again) == sum(n for n in LENGTHS if n > 5)
    for offset in range(6):
        np.testing.assert_array_equal(again[after.first_rows + offset], vectors[before.first_rows + offset])
    texts = read_columns(concepts_path, ["concept_text"])["concept_text"].take(before.target_rows)
    assert read_columns(tmp_path / "c.parquet", ["concept_text"])["concept_text"].take(after.target_rows).equals(texts)


def test_a_file_without_articles_is_restored_exactly_and_labelled_as_leaking(tmp_path):
    vectors, arrays = original_sequences(num_concepts=40)
    path = write_npz(tmp_path / "t.npz", arrays)

    findings = import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet", space_id="gtr")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    assert len(rows) == 40 + 5  # validation is a run of its own, with its five context concepts again
    for offset in range(6):
        np.testing.assert_array_equal(rows[sequences.first_rows + offset], vectors[np.arange(35) + offset])
    assert sequences.splits.tolist() == ["train"] * 28 + ["validation"] * 7
    assert sequences.metadata.is_leaking
    assert "names no articles" in str(sequences.metadata.leak_reason)
    assert sequences.metadata.split_rule == "last_20_percent"
    assert read_concepts_metadata(tmp_path / "c.parquet").space_id == "gtr"
    failed = {finding.name: finding.severity for finding in findings if not finding.passed}
    assert failed["sequences_do_not_leak"] is Severity.WARNING
    assert failed["no_near_duplicate_across_splits"] is Severity.WARNING  # the five concepts
    assert not blocking_failures(findings)


def test_sequences_in_any_order_are_restored(tmp_path):
    _, arrays = original_sequences(num_concepts=40)
    order = np.random.default_rng(0).permutation(35)
    shuffled = {name: array[order] for name, array in arrays.items()}
    path = write_npz(tmp_path / "t.npz", shuffled)

    import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    contexts = rows[sequences.first_rows[:, None] + np.arange(5)]
    np.testing.assert_array_equal(contexts, shuffled["context_sequences"])
    np.testing.assert_array_equal(rows[sequences.target_rows], shuffled["target_vectors"])
    texts = read_columns(tmp_path / "c.parquet", ["concept_text"])["concept_text"].to_pylist()
    assert [texts[row] for row in sequences.target_rows] == shuffled["target_texts"].tolist()


@pytest.mark.parametrize("piece_bytes", [1, 900, 10**6])
@pytest.mark.parametrize("context_length", [1, 5])
def test_the_size_of_a_piece_changes_nothing(tmp_path, monkeypatch, piece_bytes, context_length):
    monkeypatch.setattr(npz_import, "PIECE_BYTES", piece_bytes)
    vectors, arrays = original_sequences(num_concepts=30, context_length=context_length)
    breaks = np.delete(np.arange(30 - context_length), [4, 5, 11])  # three sequences are missing
    path = write_npz(tmp_path / "t.npz", {name: array[breaks] for name, array in arrays.items()})

    import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    for offset in range(context_length + 1):
        np.testing.assert_array_equal(rows[sequences.first_rows + offset], vectors[breaks + offset])
    columns = read_columns(tmp_path / "c.parquet", ["article_id", "position"]).to_pydict()
    expected, before = [], None
    for article_id in columns["article_id"]:
        expected.append(expected[-1] + 1 if article_id == before else 0)
        before = article_id
    assert columns["position"] == expected
    assert len(set(columns["article_id"])) == 4  # two gaps and the split


def one_step_too_far(vectors, starts):
    return vectors[starts[:-1, None] + np.arange(5)], vectors[starts[:-1] + 6]


def other_concepts_before_the_last(vectors, starts):
    contexts = vectors[starts[:, None] + np.arange(5)]
    contexts[:, 0] = vectors[::-1][starts]
    contexts[:, 1] = vectors[::-1][starts + 1]
    return contexts, vectors[starts + 5]


def one_concept_again_and_again(vectors, starts):
    return np.tile(vectors[0], (len(starts), 5, 1)), np.tile(vectors[0], (len(starts), 1))


@pytest.mark.parametrize(
    ("arrange", "num_rows"),
    [
        (one_step_too_far, 34 * 6),
        (other_concepts_before_the_last, 35 * 6),
        (one_concept_again_and_again, 6 + 27 + 6 + 6),
    ],
)
def test_only_what_truly_overlaps_shares_rows(tmp_path, arrange, num_rows):
    vectors, _ = original_sequences(num_concepts=40)
    contexts, targets = arrange(vectors, np.arange(35))
    path = write_npz(tmp_path / "t.npz", {"context_sequences": contexts, "target_vectors": targets})

    import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    assert len(rows) == num_rows
    np.testing.assert_array_equal(rows[sequences.first_rows[:, None] + np.arange(5)], contexts)
    np.testing.assert_array_equal(rows[sequences.target_rows], targets)


def test_a_leaking_export_stays_leaking(concepts_path, tmp_path):
    leaking = write_synthetic_sequences(
        concepts_path, tmp_path / "l.parquet", boundaries="ignore", split="last_20_percent"
    )
    *_, path = export_npz(concepts_path, leaking, tmp_path / "npz")

    findings = import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    before, after = read_sequences(leaking), read_sequences(tmp_path / "s.parquet")
    assert after.metadata.is_leaking
    assert after.metadata.leak_reason == before.metadata.leak_reason
    assert after.splits.tolist() == before.splits.tolist()
    vectors, again = read_vectors(concepts_path), read_vectors(tmp_path / "c.parquet")
    for offset in range(6):
        np.testing.assert_array_equal(again[after.first_rows + offset], vectors[before.first_rows + offset])
    assert not blocking_failures(findings)


def test_articles_without_splits_are_split_by_hash(tmp_path):
    _, arrays = original_sequences(num_concepts=6 * 60)
    starts = [start for start in range(6 * 60 - 5) if start % 6 == 0]
    arrays = {name: array[starts] for name, array in arrays.items()}
    arrays["article_ids"] = np.array([f"article {start}" for start in starts])
    findings = import_sequences_npz(
        write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet"
    )
    metadata = read_sequences(tmp_path / "s.parquet").metadata
    assert (metadata.split_rule, metadata.is_leaking) == ("seeded_hash", False)
    assert {finding.name for finding in findings if not finding.passed} <= {"splits_have_their_share"}  # they are few


def test_metadata_of_the_wrong_type_do_not_become_those_of_the_tables(tmp_path):
    _, arrays = original_sequences()
    arrays["article_ids"] = np.array(["a"] * 20 + ["b"] * 15)
    arrays["splits"] = np.array(["train"] * 20 + ["validation"] * 15)
    given = {"split_rule": "seeded_hash", "split_seed": "abc", "train_fraction": True, "validation_fraction": "0.5"}
    arrays["metadata"] = np.array(json.dumps(given))

    import_sequences_npz(write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet")

    metadata = read_sequences(tmp_path / "s.parquet").metadata
    assert (metadata.split_seed, metadata.train_fraction, metadata.validation_fraction) == (None, None, None)


def test_an_article_whose_sequences_do_not_follow_each_other_is_named(tmp_path):
    _, arrays = original_sequences()
    arrays["article_ids"] = np.array(["a"] * 10 + ["b"] * 20 + ["a"] * 5)
    path = write_npz(tmp_path / "t.npz", arrays)
    with pytest.raises(LvmError, match="article a in two splits, or with a gap or other articles between them; export"):
        import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")


BAD_SEQUENCES = {
    "NaN in a context": (with_entry("context_sequences", (3, 2, 1), np.nan), "row 3 of context_sequences"),
    "NaN in a target": (with_entry("target_vectors", (3, 1), np.nan), "row 3 of target_vectors"),
    "two axes": (lambda a: {"context_sequences": a["target_vectors"]}, "not vectors of 3 axes"),
    "another width": (lambda a: {"target_vectors": a["target_vectors"][:, :-1]}, "beside 35 contexts of vectors of 16"),
    "fewer targets": (lambda a: {"target_vectors": a["target_vectors"][:-1]}, "beside 35 contexts"),
    "fewer texts": (lambda a: {"target_texts": a["target_texts"][:-1]}, "35 entries are expected"),
    "unknown splits": (lambda _: {"splits": np.array(["val"] * 35)}, r"unknown splits \(val\)"),
    "a bad code": (lambda _: {"target_tmds": np.array([99999] * 35)}, "not a TMD code"),
}


@pytest.mark.parametrize(("harm", "message"), BAD_SEQUENCES.values(), ids=BAD_SEQUENCES)
def test_bad_sequences_are_reported_and_nothing_is_written(tmp_path, harm, message):
    _, arrays = original_sequences()
    path = write_npz(tmp_path / "t.npz", arrays | harm(arrays))
    with pytest.raises(LvmError, match=message):
        import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert [left.name for left in tmp_path.iterdir()] == ["t.npz"]


@pytest.mark.parametrize("missing", ["context_sequences", "target_vectors"])
def test_missing_sequences_are_named(tmp_path, missing):
    _, arrays = original_sequences()
    del arrays[missing]
    with pytest.raises(LvmError, match=f"lacks the arrays {missing}"):
        import_sequences_npz(write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet")


def test_vectors_and_nothing_else_are_enough(tmp_path):
    _, arrays = original_sequences()
    arrays = {name: arrays[name] for name in ("context_sequences", "target_vectors")}
    import_sequences_npz(write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert pq.read_table(tmp_path / "c.parquet", columns=["concept_text"])["concept_text"].null_count == 45


def test_tmd_vectors_are_no_codes(tmp_path):
    _, arrays = original_sequences()
    arrays["target_tmds"] = np.ones((35, 16), dtype="f4")
    import_sequences_npz(write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert pq.read_table(tmp_path / "c.parquet", columns=["domain"])["domain"].null_count == 45
