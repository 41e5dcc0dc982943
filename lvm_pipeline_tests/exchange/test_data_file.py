"""Any kind of data file becomes a concept table and a sequence table that a model can be trained on."""

import gzip
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange.data_file import tables_from_file
from lvm_pipeline.exchange.npz_export import export_npz
from lvm_pipeline.findings import InvariantError
from lvm_pipeline.sequences.build import SequenceOptions
from lvm_pipeline.sequences.schema import read_sequences
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline_tests.exchange.npz_files import LENGTHS
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    concepts = write_synthetic_concepts(folder / "concepts.parquet", article_lengths=LENGTHS * 4, kind="noise")
    sequences = write_synthetic_sequences(concepts, folder / "sequences.parquet", split_seed=0)
    concepts_npz, _, sequences_npz = export_npz(concepts, sequences, folder)
    return {
        "concept table": concepts,
        "sequence table": sequences,
        "npz of concepts": concepts_npz,
        "npz of sequences": sequences_npz,
    }


@pytest.mark.parametrize("kind", ["concept table", "sequence table", "npz of concepts", "npz of sequences"])
def test_every_kind_of_file_gives_the_same_sequences_to_train_on(files, tmp_path, kind):
    concepts_path, sequences_path = tables_from_file(files[kind], work_dir=tmp_path / "work")

    data = load_training_data(concepts_path, sequences_path, tmp_path / "vectors")
    found, expected = read_sequences(sequences_path), read_sequences(files["sequence table"])
    assert found.article_ids.tolist() == expected.article_ids.tolist()
    assert found.splits.tolist() == expected.splits.tolist()
    assert not found.metadata.is_leaking
    assert len(data.vectors) == sum(n for n in LENGTHS * 4 if n > 5 or kind != "npz of sequences")


def test_cutting_follows_the_options(files, tmp_path):
    options = SequenceOptions(boundaries="ignore", split="last_20_percent")
    _, sequences_path = tables_from_file(files["concept table"], work_dir=tmp_path, sequence_options=options)
    assert read_sequences(sequences_path).metadata.is_leaking


def test_a_sequence_table_without_its_concepts_is_an_error(files, tmp_path):
    alone = shutil.copy(files["sequence table"], tmp_path / "sequences.parquet")
    with pytest.raises(LvmError, match=r"put its concepts\.parquet beside it"):
        tables_from_file(alone, work_dir=tmp_path / "work")


def test_a_packed_sequence_table_is_called_as_it_was_given(files, tmp_path):
    packed = tmp_path / "sequences.parquet.gz"
    packed.write_bytes(gzip.compress(files["sequence table"].read_bytes()))

    with pytest.raises(LvmError, match=r"^sequences\.parquet\.gz holds row numbers only; save it as a plain"):
        tables_from_file(packed, work_dir=tmp_path / "work")


def with_an_empty_text(concepts, path):
    table = pq.read_table(concepts)
    texts = table["concept_text"].to_pylist()
    index = table.schema.get_field_index("concept_text")
    pq.write_table(table.set_column(index, table.schema.field(index), pa.array(["", *texts[1:]])), path)
    return path


def test_a_given_concept_table_is_checked_as_an_extracted_one(files, tmp_path):
    path = with_an_empty_text(files["concept table"], tmp_path / "concepts.parquet")

    with pytest.raises(InvariantError, match="texts_are_not_empty"):
        tables_from_file(path, work_dir=tmp_path / "work")


def test_concepts_of_an_npz_file_are_checked(files, tmp_path):
    with np.load(files["npz of concepts"]) as file:
        arrays = dict(file)
    arrays["concept_texts"][3] = ""
    np.savez(tmp_path / "concepts.npz", **arrays)

    with pytest.raises(InvariantError, match="texts_are_not_empty"):
        tables_from_file(tmp_path / "concepts.npz", work_dir=tmp_path / "work")


def test_a_given_sequence_table_is_checked(files, tmp_path):
    """Trained on, windows across articles would leak."""
    shutil.copy(files["concept table"], tmp_path / "concepts.parquet")
    table = pq.read_table(files["sequence table"])
    for name in ("first_row", "target_row"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pc.add(table[name], 1))
    pq.write_table(table, tmp_path / "sequences.parquet")

    with pytest.raises(InvariantError, match="windows_stay_inside_articles"):
        tables_from_file(tmp_path / "sequences.parquet", work_dir=tmp_path / "work")


@pytest.mark.parametrize(("name", "content"), [("missing.npz", None), ("text.parquet", b"no"), ("text.npz", b"no")])
def test_another_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LvmError, match=name):
        tables_from_file(path, work_dir=tmp_path / "work")
