"""A Parquet file is a source like the table: ordered by article and position, bad rows named."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.file_reader import ParquetReader
from lvm_pipeline.concepts.store import read_columns, read_vectors
from lvm_pipeline.findings import blocking_failures
from lvm_pipeline.source.records import BadInputError
from lvm_pipeline_tests.synthetic import synthetic_table

COLUMNS = ["cpe_id", "article_id", "position", "concept_text", "vector"]


def extract(table, folder):
    path = folder / "given.parquet"
    pq.write_table(table, path)
    staged = folder / "concepts.parquet"
    return extract_concepts(ParquetReader(path), options=ExtractOptions(), staged_path=staged)


def test_rows_come_out_in_reading_order_with_their_vectors(tmp_path):
    table = synthetic_table([5, 8, 2]).select(COLUMNS)
    rows = list(range(table.num_rows))
    random.Random(0).shuffle(rows)

    extraction = extract(table.take(rows), tmp_path)

    assert not blocking_failures(extraction.findings)
    assert extraction.metadata.num_articles == 3
    assert read_columns(extraction.path, ["cpe_id"])["cpe_id"].to_pylist() == table["cpe_id"].to_pylist()
    assert read_vectors(extraction.path).tolist() == table["vector"].to_pylist()


def test_positions_that_count_from_one_become_those_from_zero(tmp_path):
    table = synthetic_table([5, 8, 2]).select(COLUMNS)
    at = table.schema.get_field_index("position")
    from_one = pa.array([position + 1 for position in table["position"].to_pylist()], pa.int32())

    extraction = extract(table.set_column(at, "position", from_one), tmp_path)

    assert not blocking_failures(extraction.findings)
    assert read_columns(extraction.path, ["position"])["position"].equals(table["position"])


def test_two_texts_at_one_position_are_no_order(tmp_path):
    table = synthetic_table([4, 4]).select(COLUMNS)
    at = table.schema.get_field_index("position")
    positions = table["position"].to_pylist()
    positions[1] = 0

    with pytest.raises(BadInputError, match=r"row 2.*load the rest into the source table with `lvm ingest --skip-bad`"):
        extract(table.set_column(at, "position", pa.array(positions, pa.int32())), tmp_path)
