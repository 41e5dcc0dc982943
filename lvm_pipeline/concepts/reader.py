"""What this stage asks of a source table; `adapters/postgres_reader.py` answers it.

Shapes: D = vector width.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from lvm_pipeline.concepts.ordering import ColumnKind, KeyFacts, OrderRule

TMD_DIM = 16

# Batches as they come from a source: ordered by the rule, so each article is one unbroken run. `source_position` is
# null where positions only rank. `vector` is null where it is missing; its width may differ from row to row.
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
    """How many rows hold TMD codes twice, as three columns and packed, and how many of those fit each packing.

    `num_known` fit `d<<11 | t<<6 | m`, `num_shifted` only the other one, `d<<12 | t<<7 | m<<1`.
    """

    num_rows: int
    num_known: int
    num_shifted: int


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """The selected rows of a source table, as far as counting them tells.

    `source` names server, database and tables without a secret. `space_counts` has the number of
    vectors for each space id, None for those that name none. `packed_codes` is None where the
    table has no packed codes.
    """

    source: str
    dataset_source: str
    num_rows: int
    column_kinds: Mapping[str, ColumnKind]
    space_counts: Mapping[str | None, int]
    packed_codes: PackedCodes | None = None


class SourceTable(Protocol):
    """A source table while it is open: every answer comes from one and the same snapshot of it."""

    def describe(self) -> SourceDescription:
        """Count the selected rows and what they hold."""
        ...

    def examine(self, rule: OrderRule) -> KeyFacts:
        """Count what decides whether a rule orders the rows."""
        ...

    def read_batches(self, rule: OrderRule) -> Iterator[pa.RecordBatch]:
        """Stream all rows of `SOURCE_SCHEMA`, ordered by the rule and, where that leaves a choice, by cpe_id."""
        ...


class ConceptReader(Protocol):
    """Where concepts come from."""

    def open(self) -> AbstractContextManager[SourceTable]:
        """Open the source for reading.

        Raises:
            LvmError: If it cannot be reached or has not got what is needed.
        """
        ...
