"""The source tables, and the packing of TMD codes into one integer."""

import re
from typing import NamedTuple

from pgvector.sqlalchemy import Vector
from sqlalchemy import REAL, Column, DateTime, ForeignKey, Integer, MetaData, SmallInteger, Table, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql import quoted_name

NAME_PART = re.compile(r'"(?:[^"]|"")+"|[^".]+')  # in double quotes where it holds a dot or blank
MAX_DOMAIN, MAX_TASK, MAX_MODIFIER = 15, 31, 63


class Tmd(NamedTuple):
    """Domain, task and modifier, which are categories; (0, 0, 0) marks a failed assignment."""

    domain: int
    task: int
    modifier: int


def pack_tmd(tmd: Tmd) -> int:
    """Pack TMD codes as `domain << 11 | task << 6 | modifier`, which fits a signed 16-bit column.

    Raises:
        ValueError: If a code is outside its range (0-15, 0-31, 0-63).
    """
    if not (0 <= tmd.domain <= MAX_DOMAIN and 0 <= tmd.task <= MAX_TASK and 0 <= tmd.modifier <= MAX_MODIFIER):
        raise ValueError(f"TMD codes must lie in 0-{MAX_DOMAIN}, 0-{MAX_TASK}, 0-{MAX_MODIFIER}, got {tuple(tmd)}")
    return tmd.domain << 11 | tmd.task << 6 | tmd.modifier


def unpack_tmd(bits: int) -> Tmd:
    """Undo `pack_tmd`. Raises ValueError if `bits` is outside 0-32767."""
    if not 0 <= bits < 1 << 15:
        raise ValueError(f"packed TMD codes must lie in 0-32767, got {bits}")
    return Tmd(domain=bits >> 11, task=bits >> 6 & MAX_TASK, modifier=bits & MAX_MODIFIER)


def source_metadata(*, entry_table: str = "cpe_entry", vector_table: str = "cpe_vectors") -> MetaData:
    """Return the definition of both tables under the given names (`TABLE` or `SCHEMA.TABLE`).

    Nearly all columns may be NULL, as in real dumps. `document_id` and `sequence_index` (an order without ties) and
    `space_id` are added to the tables of the original project. `concept_vec` has no fixed width, so that a table can
    have vectors of several encoders, each under its own `dataset_source`.
    """
    metadata = MetaData()
    schema, name = _schema_and_name(entry_table)
    entry = Table(name, metadata, *_entry_columns(), schema=schema)
    schema, name = _schema_and_name(vector_table)
    Table(name, metadata, *_vector_columns(entry), schema=schema)
    return metadata


def _schema_and_name(table: str) -> tuple[str | None, str]:
    parts = [quoted_name(part.strip('"').replace('""', '"'), quote=True) for part in NAME_PART.findall(table)]
    return (parts[-2] if len(parts) > 1 else None), parts[-1]


def _entry_columns() -> list[Column]:
    return [
        Column("cpe_id", Uuid, primary_key=True),
        Column("concept_text", Text, nullable=False),
        Column("source_chunk", Text),
        Column("mission_text", Text),
        Column("probe_question", Text),
        Column("expected_answer", Text),
        Column("domain_code", SmallInteger),
        Column("task_code", SmallInteger),
        Column("modifier_code", SmallInteger),
        Column("content_type", Text),
        Column("dataset_source", Text, nullable=False, index=True),
        Column("document_id", Text),
        Column("sequence_index", Integer),
        Column("chunk_position", JSONB),
        Column("relations_text", JSONB),
        Column("echo_score", REAL),
        Column("validation_status", Text),
        Column("batch_id", Uuid),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("tmd_bits", SmallInteger),
        Column("tmd_lane", Text),
        Column("lane_index", SmallInteger),
        Column("soft_negatives", JSONB),
        Column("hard_negatives", JSONB),
    ]


def _vector_columns(entry: Table) -> list[Column]:
    return [
        Column("cpe_id", Uuid, ForeignKey(entry.c.cpe_id, ondelete="CASCADE"), primary_key=True),
        Column("concept_vec", Vector),
        Column("question_vec", Vector),
        Column("tmd_dense", Vector(16)),
        Column("fused_vec", Vector),
        Column("fused_norm", REAL),
        Column("space_id", Text),
    ]
