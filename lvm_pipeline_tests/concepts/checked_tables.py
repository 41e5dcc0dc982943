"""Concept tables with one fault each, and what the invariants say of them."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline_tests.synthetic import write_table
from lvm_pipeline_tests.worded import with_columns

LENGTHS = [6, 9, 7, 12]


class FakeEncoder:
    """Gives back the vectors of a table by their texts, turned a little."""

    def __init__(self, table, *, space_id="synthetic", noise=0.0, vector_dim=None):
        self.space_id = space_id
        vectors = np.array(table["vector"].to_pylist(), np.float32)[:, :vector_dim]
        vectors += noise * np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
        self._vectors = dict(zip(table["concept_text"].to_pylist(), vectors, strict=True))

    def encode(self, texts):
        return np.stack([self._vectors[text] for text in texts])


def with_values(table, name, changes):
    values = table[name].to_pylist()
    for row, value in changes.items():
        values[row] = value
    return with_columns(table, **{name: values})


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
