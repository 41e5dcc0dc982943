"""Read the source tables over ADBC, in order and from one snapshot."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import adbc_driver_manager
import pyarrow as pa
from adbc_driver_postgresql import StatementOptions
from psycopg import sql

from lvm_pipeline.adapters import databases, postgres_digests, postgres_queries
from lvm_pipeline.adapters.database_urls import with_parameters
from lvm_pipeline.adapters.optional_columns import parse_codes, parse_string_lists, parse_times
from lvm_pipeline.adapters.postgres_tables import Tables, find_tables
from lvm_pipeline.adapters.vector_columns import READABLE_TYPES, parse_tmd, parse_vectors
from lvm_pipeline.concepts.ordering import AmbiguousArticle, KeyFacts, OrderRule
from lvm_pipeline.concepts.reader import SOURCE_SCHEMA, PackedCodes, SourceDescription
from lvm_pipeline.errors import LvmError
from lvm_pipeline.words import counted

if TYPE_CHECKING:
    from adbc_driver_postgresql import dbapi

DEFAULT_SOURCE = "user_input"
EVERY_ROW = "(every row)"
DRIVER_REASON = re.compile(r"(?:ERROR|FATAL|Failed to connect): ((?:(?!FATAL: ).)+?)(?: SQLSTATE| Query was|$)")
NOT_UTF8 = "invalid byte sequence for encoding"  # of a database that does not check its texts
COUNTED = ("num_keyed", "num_articles", "num_from_zero", "num_from_one", "num_gapless")  # of `KeyFacts`
BATCH_BYTES = 4 << 20  # a quarter of the driver's own choice: 250 MB at the peak instead of 350, and no slower
SORT_MEMORY = "64MB"
SET_VARIABLE = "SELECT set_config($1, $2, true) IS NULL AS value"
DATABASE_ERRORS = (adbc_driver_manager.Error, pa.ArrowException, OSError)
PARSERS = {
    parse_codes: postgres_queries.CODE_COLUMNS,
    parse_times: {"created_at": "created_at"},
    parse_string_lists: {name: name for name in postgres_queries.NEGATIVE_COLUMNS},
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The extracted rows: one dataset source, or every row if the table has none."""

    dataset_source: str | None
    num_rows: int

    @property
    def label(self) -> str:
        """The dataset source as it is recorded."""
        return EVERY_ROW if self.dataset_source is None else self.dataset_source


@dataclass(frozen=True)
class PostgresReader:
    """The source tables and the selection of rows; `open` connects.

    `url` is a `postgresql://` URL. Table names may contain a schema (`SCHEMA.TABLE`). The default `dataset_source` is
    `user_input` if that has rows, else the only one.
    """

    url: str = field(repr=False)
    entry_table: str = "cpe_entry"
    vector_table: str = "cpe_vectors"
    vector_column: str = "concept_vec"
    dataset_source: str | None = None

    @contextmanager
    def open(self) -> Iterator["PostgresTable"]:
        """Connect, and hold one read-only snapshot until the block ends.

        Raises:
            LvmError: If the database cannot be reached, or a table or column is missing.
        """
        with _connection(self.url) as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(BATCH_BYTES)})
            with _database_errors(self.url):
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                cursor.execute("SET LOCAL TIME ZONE 'UTC'")
                cursor.execute(f"SET LOCAL client_encoding = '{databases.CLIENT_ENCODING}'")
                cursor.execute(f"SET LOCAL work_mem = '{SORT_MEMORY}'")
            query = _Query(cursor, self.url)
            tables = find_tables(
                query, entry_table=self.entry_table, vector_table=self.vector_table, vector_column=self.vector_column
            )
            selection = _select(query, tables, self.dataset_source)
            yield PostgresTable(query=query, tables=tables, selection=selection)


@dataclass(frozen=True)
class _Query:
    """Runs queries on the open connection and converts errors to `LvmError`."""

    cursor: Any
    url: str

    def __call__(self, query: sql.Composable | str, *parameters: str) -> list[dict]:
        text = query if isinstance(query, str) else query.as_string(None)
        with _database_errors(self.url):
            self.cursor.execute(text, parameters=parameters or None)
            return self.cursor.fetch_arrow_table().to_pylist()

    def stream(self, query: sql.Composable) -> Iterator[pa.RecordBatch]:
        with _database_errors(self.url):
            self.cursor.execute(query.as_string(None))
            yield from self.cursor.fetch_record_batch()


@dataclass(frozen=True, kw_only=True)
class PostgresTable:
    """The open source tables; see `concepts.reader.SourceTable`."""

    query: _Query
    tables: Tables
    selection: Selection

    def describe(self) -> SourceDescription:
        entry = self.tables.entry
        spaces = self.query(postgres_queries.spaces_query(self.tables, self.rows(with_vectors=True)))
        packed_query = postgres_queries.packed_codes_query(entry, self.rows())
        names = [entry.name] + ([self.tables.vectors.name] if self.tables.vectors else [])
        return SourceDescription(
            source=f"{databases.shown(self.query.url)} ({', '.join(names)})",
            dataset_source=self.selection.label,
            num_rows=self.selection.num_rows,
            column_kinds=entry.kinds(),
            space_counts={row["name"]: row["num_rows"] for row in spaces},
            packed_codes=PackedCodes(**self.query(packed_query)[0]) if packed_query else None,
        )

    def examine(self, rule: OrderRule) -> KeyFacts:
        """Count what a rule depends on; ambiguous articles are listed only if there are any."""
        entry, rows = self.tables.entry, self.rows()
        counts = self.query(postgres_queries.key_query(rule, entry, rows))[0]
        is_keyed = counts["num_keyed"] == self.selection.num_rows
        tied = self.query(postgres_queries.tied_query(rule, entry, rows)) if is_keyed and counts["num_tied"] else []
        mixed_query = postgres_queries.mixed_query(rule, entry, rows) if is_keyed else None
        mixed = self.query(mixed_query) if mixed_query else []
        counted = {name: counts[name] for name in COUNTED}
        return KeyFacts(
            num_rows=self.selection.num_rows,
            **counted,
            num_tied=tied[0]["num_articles"] if tied else 0,
            tied=_ambiguous(tied),
            num_mixed=mixed[0]["num_articles"] if mixed else 0,
            mixed=_ambiguous(mixed),
        )

    def article_digests(self, rule: OrderRule) -> dict[str, int] | None:
        """Digest the row versions of each article; no vector is read. None for views and foreign tables."""
        if any(table.is_view for table in (self.tables.entry, self.tables.vectors) if table):
            return None
        recipe = self._recipe(rule)
        query = postgres_digests.digests_query(rule, self.tables, self.rows(with_vectors=True))
        return {row["article_id"]: postgres_digests.digest(recipe, row["versions"]) for row in self.query(query)}

    def _recipe(self, rule: OrderRule) -> str:
        """Return all else that decides what is read: server, tables, columns, types, rows and rule."""
        names = [table.quoted() for table in self.tables.all]
        storage = self.query(postgres_digests.storage_query(len(names)), *names)
        ordered = postgres_queries.ordered_query(rule, self.tables, self.rows(with_vectors=True))
        types = [list(table.types.items()) for table in self.tables.all]
        return repr((storage, ordered.as_string(None), self.selection.label, types, rule))

    def read_batches(self, rule: OrderRule, *, article_ids: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream all rows, or those of some articles, in the rule's order, batch by batch."""
        self._refuse_nested_vectors()
        is_numbered = rule.accepts_table_order and self.tables.entry.is_view
        rows = self.rows(with_vectors=True, is_numbered=is_numbered)
        if article_ids is not None:
            self.query(SET_VARIABLE, postgres_queries.ARTICLES_VARIABLE, json.dumps(list(article_ids)))
            rows = postgres_queries.only_articles(rule, self.tables.entry, rows)
        query = postgres_queries.ordered_query(rule, self.tables, rows)
        for batch in self.query.stream(query):
            yield self._parsed(batch)

    def rows(self, *, with_vectors: bool = False, is_numbered: bool = False) -> sql.Composable:
        return postgres_queries.rows_of(
            self.tables,
            is_filtered=self.selection.dataset_source is not None,
            with_vectors=with_vectors,
            is_numbered=is_numbered,
        )

    def _refuse_nested_vectors(self) -> None:
        columns = [(self.tables.vector_home, self.tables.vector_column), (self.tables.holder("tmd_dense"), "tmd_dense")]
        for table, column in columns:
            query = postgres_queries.nested_query(table, column, self.rows(with_vectors=True)) if table else None
            for row in self.query(query) if table and query else []:
                raise LvmError(
                    f"{table.name}.{column} of concept {row['cpe_id']} is an array of several dimensions "
                    f"{row['dims']}, expected one vector; correct or delete that row."
                )

    def _parsed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = {name: batch.column(name) for name in SOURCE_SCHEMA.names}
        home = self.tables.vector_home
        columns["vector"] = parse_vectors(
            columns["vector"],
            type_name=home.types[self.tables.vector_column],
            cpe_ids=columns["cpe_id"],
            name=self.tables.vector_name,
        )
        columns["tmd_dense"] = self._parsed_tmd(columns["tmd_dense"], columns["cpe_id"])
        for parse, names in PARSERS.items():
            for name, column in names.items():
                called = f"{self.tables.entry.name}.{column}"
                columns[name] = parse(columns[name], cpe_ids=columns["cpe_id"], name=called)
        return pa.record_batch([columns[name] for name in SOURCE_SCHEMA.names], schema=SOURCE_SCHEMA)

    def _parsed_tmd(self, column: pa.Array, cpe_ids: pa.Array) -> pa.Array:
        holder = self.tables.holder("tmd_dense")
        if holder is None or column.null_count == len(column):
            return pa.nulls(len(column), SOURCE_SCHEMA.field("tmd_dense").type)
        name, type_name = f"{holder.name}.tmd_dense", holder.types["tmd_dense"]
        if type_name not in READABLE_TYPES:
            raise LvmError(f"{name} has the type {type_name}, which cannot be read as vectors; use vector or real[].")
        return parse_tmd(parse_vectors(column, type_name=type_name, cpe_ids=cpe_ids, name=name), name=name)


def _select(query: _Query, tables: Tables, wanted: str | None) -> Selection:
    """Choose the dataset source and store it in a session variable.

    Raises:
        LvmError: If no row passes, or there are several sources to choose from; lists them.
    """
    entry = tables.entry
    counts = {row["name"]: row["num_rows"] for row in query(postgres_queries.sources_query(entry))}
    num_rows = sum(counts.values())
    _refuse_hidden(query, tables, num_rows)
    if not num_rows:
        raise LvmError(f"The table {entry.name} holds no rows; load some with `lvm ingest FILE`.")
    named = {name: count for name, count in counts.items() if name is not None}
    listed = ", ".join(f"{name} ({counted(count, 'row')})" for name, count in list(named.items())[:20]) or "none"
    if wanted is None and not named:
        return Selection(dataset_source=None, num_rows=num_rows)
    if wanted is None and counts.get(None):
        raise LvmError(
            f"{counted(counts[None], f'row of {entry.name} has', f'rows of {entry.name} have')} "
            f"no dataset_source, others do: {listed}; give them one, "
            "or choose one with LVM_DATASET_SOURCE, which leaves them out."
        )
    if wanted is None:
        wanted = DEFAULT_SOURCE if DEFAULT_SOURCE in named else next(iter(named)) if len(named) == 1 else None
    if wanted is None:
        raise LvmError(f"{entry.name} holds several dataset sources: {listed}; choose one with LVM_DATASET_SOURCE.")
    if wanted not in named:
        raise LvmError(
            f"No row of {entry.name} has the dataset_source {wanted!r} (it has {listed}); correct LVM_DATASET_SOURCE."
        )
    query(SET_VARIABLE, postgres_queries.FILTER_VARIABLE, wanted)
    return Selection(dataset_source=wanted, num_rows=named[wanted])


def _refuse_hidden(query: _Query, tables: Tables, num_rows: int) -> None:
    """Raise LvmError if row-level security hides every row of the entries, of which `num_rows` are seen, or vectors."""
    for table in tables.all:
        if not table.hides_rows:
            continue
        if num_rows and (table is tables.entry or query(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(table.identifier))):
            continue
        raise LvmError(
            f"Row-level security of the table {table.name} hides every row from this user; add a policy that lets it "
            "SELECT, or connect as the owner of the table."
        )


def _ambiguous(rows: list[dict]) -> tuple[AmbiguousArticle, ...]:
    fields = ("article_id", "num_rows", "num_distinct")
    return tuple(AmbiguousArticle(**{name: row[name] for name in fields}) for row in rows)


def _connection(url: str) -> "dbapi.Connection":
    from adbc_driver_postgresql import dbapi  # imports pandas, which most commands do not need

    try:
        return dbapi.connect(with_parameters(url, connect_timeout=str(databases.CONNECT_SECONDS)))
    except adbc_driver_manager.Error as error:
        databases.check_connection(url)  # raises a precise error
        words = " ".join(str(error).split())
        reason = found[1].strip(" .") if (found := DRIVER_REASON.search(words)) else words[:200]
        raise LvmError(
            f"The database at {databases.shown(url)} cannot be read ({reason}); correct LVM_DATABASE_URL."
        ) from None


@contextmanager
def _database_errors(url: str) -> Iterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        reason = str(error).partition("Query was:")[0].split("ERROR:")[-1].strip().splitlines()
        words = reason[0].strip() if reason else "no reason given"
        if NOT_UTF8 in words:
            raise LvmError(databases.not_utf8(url)) from None
        raise LvmError(
            f"A query of the database at {databases.shown(url)} failed ({words}); correct this and try again."
        ) from None
