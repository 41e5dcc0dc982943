"""Detect changes of the source tables by counts, the newest row and a content hash computed by the server."""

import hashlib
import json
from dataclasses import asdict, dataclass

from psycopg import sql

from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.adapters.postgres_tables import Table, Tables
from lvm_pipeline.adapters.vector_columns import PGVECTOR_NUMBERS

NULL = "\x1e"


@dataclass(frozen=True, kw_only=True)
class SourceState:
    """State of the selected rows of the source."""

    source: str
    dataset_source: str
    num_rows: int
    num_vectors: int
    newest: str | None
    columns: str  # names of the columns of the tables, in their order: renaming one changes no row
    # sum over rows: does not depend on their order, but changes with any value, and if a row is repeated
    content_hash: str

    @property
    def data_version(self) -> str:
        """Hash of the rows' state, the same on any server."""
        rows = {name: value for name, value in asdict(self).items() if name != "source"}
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def observe(reader: PostgresReader) -> SourceState:
    """Return the state of the selected rows; the server reads them once and transfers none.

    Raises:
        LvmError: If the source cannot be read, or no row passes the filter.
    """
    with reader.open() as table:
        answer = table.query(_state_query(table.tables, table.rows(with_vectors=True)))[0]
        description = table.describe()
        columns = ", ".join(name for each in table.tables.all for name in each.types)
    return SourceState(
        source=description.source,
        dataset_source=description.dataset_source,
        num_rows=answer["num_rows"],
        num_vectors=answer["num_vectors"],
        newest=answer["newest"],
        columns=columns,
        content_hash=answer["content_hash"],
    )


def _state_query(tables: Tables, rows: sql.Composable) -> sql.Composable:
    parts = [_hash(tables.entry, name) for name in tables.entry.types]
    if tables.vectors is not None:
        parts += [_hash(tables.vectors, name) for name in tables.vectors.types if name != "cpe_id"]
    created = tables.entry.column("created_at") if "created_at" in tables.entry.types else sql.SQL("NULL")
    return sql.SQL(
        "SELECT count(*) AS num_rows, count({vector}) AS num_vectors, max({created})::text AS newest, "
        "coalesce(sum(hashtextextended(array_to_string(ARRAY[{parts}], chr(31)), 0)::numeric), 0)::text "
        "AS content_hash {rows}"
    ).format(
        vector=tables.vector_home.column(tables.vector_column),
        created=created,
        parts=sql.SQL(", ").join(parts),
        rows=rows,
    )


def _hash(table: Table, name: str) -> sql.Composable:
    column = table.column(name)
    if table.types[name] in PGVECTOR_NUMBERS:  # hashed as arrays of numbers: quicker than as text
        return sql.SQL("coalesce(hash_array_extended({}::real[], 0)::text, {})").format(column, NULL)
    return sql.SQL("coalesce({}::text, {})").format(column, NULL)
