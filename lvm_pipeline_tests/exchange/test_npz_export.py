"""What is exported has the names of the format and loads without pickle."""

import json

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline.concepts.store import read_columns, read_vectors
from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange import npz_file
from lvm_pipeline.exchange.npz_export import export_npz
from lvm_pipeline.exchange.npz_import import import_concepts_npz
from lvm_pipeline.sequences.schema import read_sequences
from lvm_pipeline_tests.exchange.npz_files import COLUMNS, LENGTHS, NUM_CONCEPTS, NUM_SEQUENCES
from lvm_pipeline_tests.synthetic import (
    synthetic_table,
    write_synthetic_concepts,
    write_synthetic_sequences,
    write_table,
)


def test_the_files_have_their_names_and_load_without_pickle(exported, concepts_path, sequences_path):
    assert [path.name for path in exported] == [
        f"wikipedia_{NUM_CONCEPTS}_ordered.npz",
        f"wikipedia_{NUM_CONCEPTS}_ordered_metadata.json",
        "training_sequences_ctx5.npz",
    ]
    columns = read_columns(concepts_path, COLUMNS).to_pydict()
    with np.load(exported[0]) as concepts:  # refuses pickles
        assert concepts["cpe_ids"].tolist() == columns["cpe_id"]
        assert concepts["concept_texts"].tolist() == columns["concept_text"]
        assert concepts["batch_ids"].tolist() == columns["article_id"]
        assert concepts["seq_in_article"].tolist() == columns["position"]
        assert concepts["tmd_codes"][7] == "7.7.7"
        np.testing.assert_array_equal(concepts["vectors"], read_vectors(concepts_path), strict=True)
        metadata = json.loads(concepts["metadata"].item())
    assert json.loads(exported[1].read_text()) == metadata
    assert (metadata["num_concepts"], metadata["space_id"], metadata["num_articles"]) == (NUM_CONCEPTS, "synthetic", 10)


def test_exported_sequences_are_contexts_and_their_targets(exported, concepts_path, sequences_path):
    sequences, vectors = read_sequences(sequences_path), read_vectors(concepts_path)
    texts = read_columns(concepts_path, ["concept_text"])["concept_text"].to_pylist()
    with np.load(exported[2]) as arrays:
        assert arrays["context_sequences"].shape == (NUM_SEQUENCES, 5, 32)
        for index in range(NUM_SEQUENCES):
            first, target = sequences.first_rows[index], sequences.target_rows[index]
            np.testing.assert_array_equal(arrays["context_sequences"][index], vectors[first:target])
            np.testing.assert_array_equal(arrays["target_vectors"][index], vectors[target])
            assert arrays["target_texts"][index] == texts[target]
        assert arrays["target_tmds"].shape == (NUM_SEQUENCES,)
        assert arrays["sequence_positions"].tolist() == sequences.target_rows.tolist()


def test_pieces_of_any_size_give_the_same_bytes(exported, concepts_path, sequences_path, tmp_path, monkeypatch):
    monkeypatch.setattr("lvm_pipeline.exchange.npz_export.PIECE_BYTES", 700)
    monkeypatch.setattr(npz_file, "PIECE_BYTES", 700)
    again = export_npz(concepts_path, sequences_path, tmp_path / "again")
    for first, second in zip(exported, again, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_sequences_of_other_concepts_are_not_exported(sequences_path, tmp_path):
    other = write_synthetic_concepts(tmp_path / "other.parquet", article_lengths=LENGTHS, seed=5)
    with pytest.raises(LvmError, match="build the sequences again"):
        export_npz(other, sequences_path, tmp_path / "npz")
    assert not (tmp_path / "npz").exists()


def test_missing_texts_and_codes_are_empty(tmp_path):
    table = synthetic_table([8] * 8, kind="noise")
    columns = {name: table[name] for name in table.schema.names}
    columns["concept_text"] = [None, *columns["concept_text"].to_pylist()[1:]]
    columns["task"] = [None] * table.num_rows
    concepts_path = write_table(pa.table(columns, schema=table.schema), tmp_path / "c.parquet")
    sequences_path = write_synthetic_sequences(concepts_path, tmp_path / "s.parquet")
    concepts_npz, *_ = export_npz(concepts_path, sequences_path, tmp_path)
    with np.load(concepts_npz) as arrays:
        assert arrays["concept_texts"][0] == ""
        assert set(arrays["tmd_codes"].tolist()) == {""}
    import_concepts_npz(concepts_npz, tmp_path / "back.parquet")
    back = read_columns(tmp_path / "back.parquet", ["concept_text", "domain"])
    assert back["concept_text"][0].as_py() is None
    assert back["domain"].null_count == back.num_rows


def test_a_text_too_long_for_numpy_is_an_error(monkeypatch, concepts_path, sequences_path, tmp_path):
    monkeypatch.setattr(npz_file, "MAX_TEXT_ARRAY_BYTES", 1000)
    with pytest.raises(LvmError, match=r"the longest \(36 characters\)"):
        export_npz(concepts_path, sequences_path, tmp_path / "npz")
    assert list((tmp_path / "npz").iterdir()) == []
