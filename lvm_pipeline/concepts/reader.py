"""The interface of a source table; implemented by `adapters/postgres_reader.py` and `file_reader.py`.

Shapes: D = vector width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from lvm_pipeline.concepts.ordering import ColumnKind, KeyFacts, OrderRule

TMD_DIM = 16

# Schema of the batches of a source, ordered by the rule, so that each article is one unbroken run. `source_position` is
# null if positions only rank. `vector` may be null, and its width may differ between rows.
SOURCE_SCHEMA = pa.schema(
    [
        pa.field("cpe_id", pa.string()),
        pa.field("article_id", pa.string()),
        pa.field("source_position", pa.int64()),
        pa.field("concept_text", pa.string()),
        pa.field("domain", pa.int16()),
        pa.field("task", pa.int16()),
        pa.field("modifier", pa.int16()),
        pa.field("tmd_dense", pa.list_(pa.float32())),
        pa.field("soft_negatives", pa.list_(pa.string())),
        pa.field("hard_negatives", pa.list_(pa.string())),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
        pa.field("vector", pa.large_list(pa.float32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PackedCodes:
    """Counts of rows with TMD codes as three columns and packed."""

    num_rows: int
    num_known: int  # packed as `d<<11 | t<<6 | m`
    num_shifted: int  # packed as `d<<12 | t<<7 | m<<1`


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """Counts of the selected rows of a source table."""

    source: str  # server, database and tables, without secrets
    dataset_source: str
    num_rows: int
    column_kinds: Mapping[str, ColumnKind]
    space_counts: Mapping[str | None, int]  # number of vectors by space id; None: undeclared
    packed_codes: PackedCodes | None = None  # None if the table has none


class SourceTable(Protocol):
    """An open source table; all methods read the same snapshot."""

    def describe(self) -> SourceDescription: ...

    def examine(self, rule: OrderRule) -> KeyFacts: ...

    def article_digests(self, rule: OrderRule) -> dict[str, int] | None:
        """Return a digest of each article, in the rule's order, that changes when its rows change.

        It also depends on how the rows are read. None if the source cannot detect changes.
        """
        ...

    def read_batches(self, rule: OrderRule, *, article_ids: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream all rows, or those of some articles, in `SOURCE_SCHEMA`, ordered by the rule, then by cpe_id."""
        ...


class ConceptReader(Protocol):
    def open(self) -> AbstractContextManager[SourceTable]:
        """Open the source for reading. Raises LvmError if it cannot be reached, or a table or column is missing."""
        ...
