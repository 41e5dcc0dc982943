"""Read a Parquet file with vectors as a source of concepts, without loading it into the table. It is held in memory."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.ordering import ColumnKind, KeyFacts, OrderRule
from lvm_pipeline.concepts.reader import SOURCE_SCHEMA, SourceDescription
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.parquet import read_parquet
from lvm_pipeline.source.records import BadInputError, SourceRecords

BATCH_ROWS = 4096
SKIP = "load the rest into the source table with `lvm ingest --skip-bad`"
KEY_COLUMNS = {"document_id": ColumnKind.TEXT, "sequence_index": ColumnKind.INTEGER}  # of the order rules


@dataclass(frozen=True)
class ParquetReader:
    """A Parquet file with the columns of `lvm ingest`."""

    path: Path

    def open(self) -> AbstractContextManager["ParquetTable"]:
        """Read and check every row.

        Raises:
            LvmError: If the file is damaged or lacks a column.
            BadInputError: If a row cannot be used; every bad row is named.
        """
        records = read_parquet(self.path, dataset_source=self.path.stem)
        if records.bad_rows or records.gaps:
            raise BadInputError(self.path, [*records.bad_rows, *records.gaps], skip=SKIP)
        if not records.concepts:
            raise LvmError(f"{self.path.name} has no rows; give a file with at least one article.")
        return nullcontext(ParquetTable(records))


@dataclass(frozen=True)
class ParquetTable:
    """The file's rows; see `reader.SourceTable`."""

    records: SourceRecords

    def describe(self) -> SourceDescription:
        num_rows = len(self.records.concepts)
        return SourceDescription(
            source=self.records.path.name,
            dataset_source=self.records.path.stem,
            num_rows=num_rows,
            column_kinds=KEY_COLUMNS,
            space_counts={self.records.space_id: num_rows},
        )

    def examine(self, rule: OrderRule) -> KeyFacts:
        """Count rows and articles; `read_parquet` refuses positions that repeat, have a gap or begin elsewhere."""
        num_rows, num_articles = len(self.records.concepts), len({each.article_id for each in self.records.concepts})
        is_from_one = all(each.position > 0 for each in self.records.concepts)
        return KeyFacts(
            num_rows=num_rows,
            num_keyed=num_rows,
            num_articles=num_articles,
            num_from_zero=0 if is_from_one else num_articles,
            num_from_one=num_articles if is_from_one else 0,
        )

    def article_digests(self, rule: OrderRule) -> None:
        """Return None: a file is always read in full."""

    def read_batches(self, rule: OrderRule, *, article_ids: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows by article and position, batch by batch."""
        assert article_ids is None
        concepts, read_vectors = self.records.concepts, self.records.read_vectors
        assert read_vectors is not None
        vectors = np.concatenate([block for _, block in read_vectors([concept.number for concept in concepts])])
        order = sorted(range(len(concepts)), key=lambda row: (concepts[row].article_id, concepts[row].position))
        for start in range(0, len(order), BATCH_ROWS):
            yield self._batch(order[start : start + BATCH_ROWS], vectors)

    def _batch(self, rows: list[int], vectors: np.ndarray) -> pa.RecordBatch:
        chosen = [self.records.concepts[row] for row in rows]
        width = vectors.shape[1]
        columns = {
            "cpe_id": [concept.cpe_id for concept in chosen],
            "article_id": [concept.article_id for concept in chosen],
            "source_position": [concept.position for concept in chosen],
            "concept_text": [concept.text for concept in chosen],
            "vector": pa.LargeListArray.from_arrays(
                np.arange(len(rows) + 1, dtype=np.int64) * width, pa.array(vectors[rows].ravel())
            ),
        }
        empty = {field.name: pa.nulls(len(rows), field.type) for field in SOURCE_SCHEMA}
        return pa.RecordBatch.from_pydict({**empty, **columns}, schema=SOURCE_SCHEMA)
