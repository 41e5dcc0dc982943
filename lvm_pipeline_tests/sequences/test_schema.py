import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.sequences.schema import (
    FIRST_SCHEMA,
    SequencesMetadata,
    SplitCounts,
    read_sequences,
    read_sequences_metadata,
)
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences


@pytest.fixture
def sequences_path(tmp_path):
    concepts_path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[9] * 20, kind="noise")
    return write_synthetic_sequences(concepts_path, tmp_path / "sequences.parquet")


def test_metadata_comes_back_as_written(sequences_path):
    metadata = read_sequences_metadata(sequences_path)
    again = {**metadata.as_json(), "split_counts": metadata.split_counts}
    assert SequencesMetadata(**again) == metadata
    assert isinstance(metadata.split_counts["train"], SplitCounts)


def test_sequences_of_a_split_are_found_in_order(sequences_path):
    sequences = read_sequences(sequences_path)
    parts = [sequences.of_split(split).tolist() for split in ("train", "validation", "test")]
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(len(sequences.first_rows)))
    assert all(part == sorted(part) for part in parts)
    assert {sequences.splits[index] for index in parts[1]} == {"validation"}


def test_an_unknown_or_empty_split_is_an_error(sequences_path, tmp_path):
    with pytest.raises(LvmError, match="no split 'val'"):
        read_sequences(sequences_path).of_split("val")
    write_synthetic_sequences(tmp_path / "concepts.parquet", sequences_path, split="last_20_percent")
    with pytest.raises(LvmError, match="test split holds no sequence"):
        read_sequences(sequences_path).of_split("test")


def test_sequences_of_other_concepts_are_refused(sequences_path):
    fingerprint = read_sequences_metadata(sequences_path).concepts_fingerprint
    assert read_sequences(sequences_path, concepts_fingerprint=fingerprint).metadata.num_sequences
    with pytest.raises(LvmError, match=r"not from these \(feedbeef"):
        read_sequences(sequences_path, concepts_fingerprint="feedbeef" * 8)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(LvmError, match=r"no sequence table at .*none\.parquet; make it"):
        read_sequences(tmp_path / "none.parquet")


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_file_is_reported(sequences_path, keep):
    data = sequences_path.read_bytes()
    sequences_path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(LvmError, match="cannot be read as Parquet"):
        read_sequences(sequences_path)


def test_damaged_pages_are_reported(sequences_path):
    data = bytearray(sequences_path.read_bytes())
    data[4:400] = bytes(396)
    sequences_path.write_bytes(bytes(data))
    with pytest.raises(LvmError, match="cannot be read as Parquet"):
        read_sequences(sequences_path)


def test_another_table_and_another_version_are_refused(sequences_path, tmp_path):
    with pytest.raises(LvmError, match="not a sequence table"):
        read_sequences(tmp_path / "concepts.parquet")
    table = pq.read_table(sequences_path)
    raw = table.schema.metadata[b"lvm"].replace(b'"schema_version": 2', b'"schema_version": 99')
    pq.write_table(table.replace_schema_metadata({b"lvm": raw}), sequences_path)
    with pytest.raises(LvmError, match="schema version 99"):
        read_sequences(sequences_path)
    pq.write_table(pa.table({"a": [1]}), sequences_path)
    with pytest.raises(LvmError, match="not a sequence table"):
        read_sequences(sequences_path)


@pytest.mark.parametrize(
    "damaged",
    [
        b"{",
        b"[]",
        b'{"schema_version": 2}',
        b'{"schema_version": 2, "split_counts": {"train": 3}}',
        b'{"schema_version": 2, "split_counts": {}, "colour": 1}',
    ],
)
def test_damaged_metadata_is_reported(sequences_path, damaged):
    pq.write_table(pq.read_table(sequences_path).replace_schema_metadata({b"lvm": damaged}), sequences_path)
    with pytest.raises(LvmError, match="has invalid metadata; build the sequences again"):
        read_sequences(sequences_path)


def test_a_first_table_without_the_splits_of_its_articles_is_reported(sequences_path):
    table = pq.read_table(sequences_path)
    stored = json.loads(table.schema.metadata[b"lvm"]) | {"schema_version": 1}
    pq.write_table(table.replace_schema_metadata({b"lvm": json.dumps(stored)}), sequences_path)
    with pytest.raises(LvmError, match="has invalid metadata; build the sequences again"):
        read_sequences(sequences_path)


def test_articles_too_short_for_a_sequence_have_a_row_with_their_split(tmp_path):
    lengths = [9, 3, 8, 12, 2, 7] * 4
    concepts_path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=lengths, kind="noise")
    sequences_path = write_synthetic_sequences(concepts_path, tmp_path / "sequences.parquet")
    table = pq.read_table(sequences_path)
    alone = table.filter(table["first_row"].is_null())

    sequences = read_sequences(sequences_path)

    assert alone.num_rows == sum(length <= 5 for length in lengths)
    assert len(sequences.first_rows) == table.num_rows - alone.num_rows == sequences.metadata.num_sequences
    assert len(sequences.article_splits) == len(lengths)
    assert b"article_splits" not in table.schema.metadata[b"lvm"]
    for article_id, split in zip(alone["article_id"].to_pylist(), alone["split"].to_pylist(), strict=True):
        assert sequences.article_splits[article_id] == split


def test_a_table_of_the_first_version_is_read(tmp_path):
    lengths = [9, 3, 8, 12, 2, 7] * 4
    concepts_path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=lengths, kind="noise")
    sequences_path = write_synthetic_sequences(concepts_path, tmp_path / "sequences.parquet")
    present = read_sequences(sequences_path)
    table = pq.read_table(sequences_path)
    stored = json.loads(table.schema.metadata[b"lvm"]) | {"schema_version": 1, "article_splits": present.article_splits}
    earlier = table.filter(table["first_row"].is_valid()).cast(FIRST_SCHEMA)
    pq.write_table(earlier.replace_schema_metadata({b"lvm": json.dumps(stored)}), sequences_path)

    found = read_sequences(sequences_path)

    assert found.article_splits == present.article_splits
    assert found.first_rows.tolist() == present.first_rows.tolist()
    assert found.metadata.fingerprint == present.metadata.fingerprint
