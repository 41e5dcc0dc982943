"""Columns and types of the source tables, from the Postgres catalogue, and their quoted names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psycopg import sql

from lvm_pipeline.adapters.vector_columns import READABLE_TYPES
from lvm_pipeline.concepts.ordering import ColumnKind
from lvm_pipeline.errors import LvmError

KINDS = {
    **dict.fromkeys(("int2", "int4", "int8"), ColumnKind.INTEGER),
    **dict.fromkeys(("numeric", "float4", "float8"), ColumnKind.NUMBER),
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), ColumnKind.TEXT),
    **dict.fromkeys(("json", "jsonb"), ColumnKind.JSON),
    **dict.fromkeys(("timestamp", "timestamptz", "date"), ColumnKind.TIME),
}
JSON_COLUMN = "chunk_position"  # may be JSON in a text column
NAME_PART = re.compile(r'"(?:[^"]|"")+"|[^".]+')
Query = Callable[..., list[dict]]  # (sql, *parameters) -> rows

COLUMNS_QUERY = """
    SELECT attname::text AS name, typname::text AS type
    FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_type ON pg_type.oid = atttypid
    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
FACTS_QUERY = """
    SELECT relkind IN ('v', 'f') AS is_view, row_security_active(oid) AS hides_rows,
      current_setting('server_version_num')::int >= 160000 AS reads_json_text
    FROM pg_catalog.pg_class WHERE oid = to_regclass($1)"""
TABLES_QUERY = """
    SELECT CASE WHEN n.nspname = 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    ORDER BY 1 LIMIT 20"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A source table.

    Attributes:
        name: As in the settings.
        alias: Its name in queries.
        types: Postgres type of each column.
        is_view: Whether it is a view or a foreign table, whose rows have no ctid.
        hides_rows: Whether row-level security applies to the user.
        reads_json_text: Whether the server can tell JSON text from other text (Postgres 16).
    """

    name: str
    alias: str
    types: Mapping[str, str]
    is_view: bool = False
    hides_rows: bool = False
    reads_json_text: bool = False

    @property
    def identifier(self) -> sql.Composable:
        return table_identifier(self.name)

    def quoted(self) -> str:
        """The quoted name, for `to_regclass`."""
        return self.identifier.as_string(None)

    def column(self, name: str) -> sql.Composable:
        """The quoted column with the table's alias."""
        return sql.Identifier(self.alias, name)

    def kinds(self) -> dict[str, ColumnKind]:
        kinds = {name: KINDS.get(type_name, ColumnKind.OTHER) for name, type_name in self.types.items()}
        if self.reads_json_text and kinds.get(JSON_COLUMN) is ColumnKind.TEXT:
            kinds[JSON_COLUMN] = ColumnKind.JSON_TEXT
        return kinds


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The entry table and the table of vectors; `vectors` is None if the entry table contains them."""

    entry: Table
    vectors: Table | None
    vector_column: str

    @property
    def all(self) -> list[Table]:
        return [table for table in (self.entry, self.vectors) if table is not None]

    @property
    def vector_home(self) -> Table:
        return self.vectors or self.entry

    @property
    def vector_name(self) -> str:
        """Table and column of the vectors, for messages."""
        return f"{self.vector_home.name}.{self.vector_column}"

    def holder(self, column: str) -> Table | None:
        """The table with an optional column, the vectors' table first."""
        return next((table for table in (self.vectors, self.entry) if table and column in table.types), None)


def table_identifier(name: str) -> sql.Identifier:
    """Quote a table's name; a dot outside double quotes separates the schema from it.

    Raises:
        LvmError: If the name is empty, has an open quote or more than three parts.
    """
    parts = NAME_PART.findall(name)
    if not 1 <= len(parts) <= 3 or ".".join(parts) != name:
        raise LvmError(f"{name!r} is not a table name; write it as TABLE or SCHEMA.TABLE.")
    return sql.Identifier(*(part[1:-1].replace('""', '"') if part[0] == '"' else part for part in parts))


def find_tables(query: Query, *, entry_table: str, vector_table: str, vector_column: str) -> Tables:
    """Find the tables and check that they have the required columns.

    Raises:
        LvmError: If the entry table or a required column is missing, or the type of the vector column cannot be read;
            lists the existing tables or columns.
    """
    entry = _find_table(query, entry_table, "e")
    if entry is None:
        tables = [row["name"] for row in query(TABLES_QUERY)]
        if entry_table in tables:
            raise LvmError(f"The database user may not use the schema of {entry_table}; grant USAGE on it.")
        there = ", ".join(tables) or "none"
        raise LvmError(
            f"There is no table {entry_table} in the database (tables: {there}); "
            "load concepts with `lvm ingest FILE` or set LVM_ENTRY_TABLE."
        )
    for column in ("cpe_id", "concept_text"):
        _require(entry, column)
    vectors = _find_table(query, vector_table, "v")
    if vectors is not None and vector_column in vectors.types:
        _require(vectors, "cpe_id")
    elif vector_column in entry.types:
        vectors = None
    else:
        there = f"{vector_table} has {_listed(vectors)}" if vectors else f"there is no table {vector_table}"
        raise LvmError(
            f"There is no column {vector_column} with vectors: {there}, and {entry_table} has {_listed(entry)}; "
            "set LVM_VECTOR_COLUMN and LVM_VECTOR_TABLE."
        )
    tables = Tables(entry=entry, vectors=vectors, vector_column=vector_column)
    type_name = tables.vector_home.types[vector_column]
    if type_name not in READABLE_TYPES:
        raise LvmError(
            f"{tables.vector_name} has the type {type_name}, which cannot be read as vectors; "
            "use vector, halfvec, real[], double precision[] or JSON text."
        )
    return tables


def _find_table(query: Query, name: str, alias: str) -> Table | None:
    quoted = table_identifier(name).as_string(None)
    types = {row["name"]: row["type"] for row in query(COLUMNS_QUERY, quoted)}
    return Table(name=name, alias=alias, types=types, **query(FACTS_QUERY, quoted)[0]) if types else None


def _require(table: Table, column: str) -> None:
    if column not in table.types:
        raise LvmError(
            f"The table {table.name} has no column {column}; it has {_listed(table)}. Rename one or create a view."
        )


def _listed(table: Table) -> str:
    return ", ".join(table.types)
