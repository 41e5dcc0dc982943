"""Write the source tables: binary COPY into both, one transaction a file; see `source.load.ConceptWriter`.

Shapes: n = rows of a batch, D = vector width.
"""

import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors as postgres_errors
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from lvm_pipeline.adapters import databases
from lvm_pipeline.adapters.database_urls import plain_url
from lvm_pipeline.adapters.limits import limit_met
from lvm_pipeline.adapters.postgres_queries import CODE_COLUMNS
from lvm_pipeline.adapters.postgres_tables import COLUMNS_QUERY, table_identifier
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.articles import NAMESPACE
from lvm_pipeline.source.deduplication import KnownRow, TableState
from lvm_pipeline.source.load import EntryBatch
from lvm_pipeline.source.records import vector_bytes
from lvm_pipeline.source.schema import source_metadata

FETCH_ROWS = 20_000
LOCK_KEY = int.from_bytes(b"lvm-load")  # of the advisory lock that keeps two loads apart
# Puts the schema of pgvector (Supabase: `extensions`) on the search path of the transaction.
VECTOR_ON_PATH = """
    SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(nspname)),
    true) FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace AS schema ON schema.oid = extnamespace
    WHERE extname = 'vector' AND nspname <> ALL (current_schemas(true))"""
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
ADDED_TYPES = {"document_id": "text", "sequence_index": "integer", "space_id": "text"}  # foreign tables may lack these
OPTIONAL_TYPES = {"chunk_position": ("json", "jsonb"), "batch_id": ("uuid", "text", "varchar")}
CODES_TABLE = "CREATE TEMP TABLE codes (id text, d int, t int, m int) ON COMMIT DROP"
# A concept lacks codes if one is missing (null or -1) or all are 0. It keeps those it has, if one is above 0.
UPDATE_CODES = """
    UPDATE {entry} AS entry SET domain_code = filled.d, task_code = filled.t, modifier_code = filled.m{set_bits}
    FROM (
        SELECT known.cpe_id,
            CASE WHEN most > 0 AND known.d <> -1 THEN known.d ELSE codes.d END AS d,
            CASE WHEN most > 0 AND known.t <> -1 THEN known.t ELSE codes.t END AS t,
            CASE WHEN most > 0 AND known.m <> -1 THEN known.m ELSE codes.m END AS m
        FROM (
            SELECT cpe_id, domain_code AS d, task_code AS t, modifier_code AS m,
                greatest(domain_code, task_code, modifier_code) AS most FROM {entry}
        ) AS known JOIN codes ON known.cpe_id::text = codes.id
        WHERE (most > 0 AND known.d <> -1 AND known.t <> -1 AND known.m <> -1) IS NOT TRUE
    ) AS filled WHERE entry.cpe_id = filled.cpe_id"""
# Null where a code that was there is out of range.
SET_BITS = """, tmd_bits = CASE
    WHEN filled.d BETWEEN 0 AND 15 AND filled.t BETWEEN 0 AND 31 AND filled.m BETWEEN 0 AND 63
    THEN (filled.d::int << 11) | (filled.t::int << 6) | filled.m::int END"""
DELETE_VECTORS = """
    DELETE FROM {vectors} AS vectors USING {entry} AS entry
    WHERE vectors.cpe_id = entry.cpe_id AND entry.dataset_source = %s AND entry.document_id = ANY(%s)"""
DELETE_ENTRIES = "DELETE FROM {entry} WHERE dataset_source = %s AND document_id = ANY(%s)"
WHOLE_NUMBER_TYPES = ("int2", "int4", "int8")
TEXT_TYPES = ("text", "varchar", "bpchar")
USABLE_TYPES = {
    "cpe_id": ("uuid", "text", "varchar"),
    "sequence_index": ("int4", "int8"),
    **dict.fromkeys(("concept_text", "dataset_source", "document_id", "space_id"), TEXT_TYPES),
}
Types = dict[str, str]  # column -> name of its Postgres type


@dataclass(frozen=True)
class PostgresWriter:
    """Writes to the source tables; each call connects once.

    `url` is a `postgresql://` URL, with or without a SQLAlchemy driver. Table names may contain a schema.
    """

    url: str = field(repr=False)
    entry_table: str = "cpe_entry"
    vector_table: str = "cpe_vectors"
    vector_column: str = "concept_vec"

    def state(self, dataset_source: str) -> TableState:
        """Return the rows of a dataset source; empty if there are no tables yet.

        Raises:
            LvmError: If the database cannot be reached, has no pgvector, or its tables lack a column or permission.
        """
        with self._connection() as connection:
            _require_pgvector(connection)
            entry_types, vector_types = self._types(connection)
            if not entry_types and not vector_types:
                _require_create(connection)
                return TableState()
            self._require_columns(entry_types, vector_types)
            self._require_insert(connection)
            return self._state(connection, entry_types, dataset_source)

    def write(
        self,
        batches: Iterable[EntryBatch],
        *,
        dataset_source: str,
        space_id: str,
        replaced: Collection[str] = (),
        num_known: int | None = None,
    ) -> int:
        """Insert all batches in one transaction and return the number of rows; creates missing tables.

        The rows of the articles `replaced` (their ids) are deleted before, in the same transaction. `num_known` is the
        number of the other rows when the batches were made from `state`; None: not to be compared.

        Raises:
            LvmError: If the database rejects a row, or the rows have changed since; then none is inserted.
        """
        with self._connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
            self._create_missing(connection)
            entry_types, vector_types = self._types(connection)
            self._require_columns(entry_types, vector_types)
            if replaced:
                self._delete(connection, replaced, dataset_source=dataset_source)
            if num_known is not None:
                self._refuse_if_changed(connection, num_known, dataset_source=dataset_source)
            num_rows = 0
            for batch in batches:
                self._copy_entries(connection, batch, entry_types, dataset_source=dataset_source)
                self._copy_vectors(connection, batch, vector_types, space_id=space_id)
                num_rows += len(batch.concepts)
            return num_rows

    def write_codes(self, codes: Iterable[tuple[str, Sequence[int]]]) -> int:
        """Give TMD codes (domain, task, modifier) to concepts by id, where they lack some; return how many got some.

        Codes that a concept has are kept and the missing ones filled.

        Raises:
            LvmError: If the table has no columns for them, or the database refuses; then nothing was written.
        """
        with self._connection() as connection:
            types, _ = self._types(connection)
            missing = [name for name in CODE_COLUMNS.values() if name not in types]
            if missing:
                raise LvmError(
                    f"The table {self.entry_table} has no column {', '.join(missing)} for TMD codes; add it."
                )
            for name in CODE_COLUMNS.values():
                _require_type(f"{self.entry_table}.{name}", types[name], WHOLE_NUMBER_TYPES)
            connection.execute(CODES_TABLE)
            with connection.cursor() as cursor, cursor.copy("COPY codes FROM STDIN") as copy:
                for cpe_id, code in codes:
                    copy.write_row([cpe_id, *code])
            update = sql.SQL(UPDATE_CODES).format(
                entry=table_identifier(self.entry_table), set_bits=sql.SQL(SET_BITS if "tmd_bits" in types else "")
            )
            return connection.execute(update).rowcount

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        """Open a transaction, committed if the block succeeds, and convert database errors to `LvmError`."""
        url = plain_url(self.url, variable=databases.SOURCE_VARIABLE)
        try:
            connection = databases.connect(url)
        except psycopg.Error:
            databases.check_connection(url)  # raises a precise error
            raise LvmError(f"The database at {databases.shown(url)} could not be reached; try again.") from None
        try:
            with connection:
                connection.execute(VECTOR_ON_PATH)
                yield connection
        except postgres_errors.UniqueViolation as error:
            raise LvmError(self._twice_sentence(error)) from None
        except postgres_errors.InsufficientPrivilege as error:
            reason = error.diag.message_primary
            raise LvmError(
                f"The database user lacks a privilege at {databases.shown(url)} ({reason}); grant it."
            ) from None
        except postgres_errors.CharacterNotInRepertoire:
            raise LvmError(databases.not_utf8(url)) from None
        except psycopg.Error as error:
            if (limit := limit_met(error)) is not None:
                raise limit from None
            reason = error.diag.message_primary or str(error).split("\n", 1)[0]
            raise LvmError(
                f"The database at {databases.shown(url)} stopped the load ({reason}); nothing was written. "
                "Correct it and try again."
            ) from None

    def _twice_sentence(self, error: psycopg.Error) -> str:
        detail = (error.diag.message_detail or "").removesuffix(" already exists.")
        return (
            f"A concept of this file ({detail}) is in the table already, under another dataset source or by a load "
            "that ran meanwhile; nothing was written. Use that --dataset-source, or other cpe_ids, or try again."
        )

    def _types(self, connection: psycopg.Connection) -> tuple[Types, Types]:
        return _column_types(connection, self.entry_table), _column_types(connection, self.vector_table)

    def _require_columns(self, entry_types: Types, vector_types: Types) -> None:
        """Check that both tables have the columns that are written, with compatible types."""
        vector_needs = ("cpe_id", self.vector_column, "space_id")
        entry_needs = ("cpe_id", "concept_text", "dataset_source", "document_id", "sequence_index")
        for table, types, needs in (
            (self.entry_table, entry_types, entry_needs),
            (self.vector_table, vector_types, vector_needs),
        ):
            missing = [name for name in needs if name not in types]
            if missing:
                added = ", ".join(f"ADD COLUMN {name} {ADDED_TYPES[name]}" for name in missing if name in ADDED_TYPES)
                remedy = f"run ALTER TABLE {table} {added}" if added else "load into another database"
                there = f"lacks the column {', '.join(missing)}" if types else "is missing beside the other one"
                raise LvmError(f"The table {table} {there}, so nothing can be loaded into it; {remedy}.")
            for column in needs:
                if column in USABLE_TYPES:
                    _require_type(f"{table}.{column}", types[column], USABLE_TYPES[column])
        _require_type(f"{self.vector_table}.{self.vector_column}", vector_types[self.vector_column], ("vector",))

    def _require_insert(self, connection: psycopg.Connection) -> None:
        for table in (self.entry_table, self.vector_table):
            name = table_identifier(table).as_string(connection)
            query = "SELECT has_table_privilege(%s, 'SELECT') AND has_table_privilege(%s, 'INSERT')"
            if not _value(connection, query, [name, name]):
                raise LvmError(
                    f"The database user may not read and insert into {table}; grant SELECT and INSERT on it."
                )

    def _state(self, connection: psycopg.Connection, entry_types: Types, dataset_source: str) -> TableState:
        is_json = entry_types.get("chunk_position") in ("json", "jsonb")
        query = sql.SQL(
            "SELECT e.cpe_id::text, e.document_id::text, e.sequence_index::int8, {article_index},"
            " sha256(convert_to(e.concept_text, 'UTF8')), sha256(vector_send(v.{vector})), v.space_id::text"
            " FROM {entry} e LEFT JOIN {vectors} v USING (cpe_id) WHERE e.dataset_source = %s"
        ).format(
            article_index=sql.SQL("e.chunk_position->>'article_index'" if is_json else "NULL"),
            vector=sql.Identifier(self.vector_column),
            entry=table_identifier(self.entry_table),
            vectors=table_identifier(self.vector_table),
        )
        rows: dict[str, KnownRow] = {}
        space_counts: Counter[str | None] = Counter()
        with connection.cursor("state", binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(query, [dataset_source])
            for cpe_id, article_id, position, article_index, text_digest, vector_digest, space_id in cursor:
                rows[_canonical(cpe_id)] = KnownRow(
                    article_id=article_id,
                    position=position,
                    article_index=int(article_index) if (article_index or "").isdecimal() else None,
                    text_digest=text_digest,
                    vector_digest=vector_digest,
                )
                if vector_digest is not None:
                    space_counts[space_id] += 1
        return TableState(rows=rows, space_counts=dict(space_counts))

    def _refuse_if_changed(self, connection: psycopg.Connection, num_known: int, *, dataset_source: str) -> None:
        """Refuse if another load ended after `state` was read: it may have the same positions, or another space."""
        query = sql.SQL("SELECT count(*) FROM {} WHERE dataset_source = %s").format(table_identifier(self.entry_table))
        found = connection.execute(query, [dataset_source]).fetchone()
        if found is None or found[0] != num_known:
            raise LvmError(f"Another load changed {dataset_source} meanwhile; nothing was written. Run it again.")

    def _create_missing(self, connection: psycopg.Connection) -> None:
        entry_types, vector_types = self._types(connection)
        if entry_types or vector_types:
            return
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        metadata = source_metadata(entry_table=self.entry_table, vector_table=self.vector_table)
        dialect = postgresql.dialect()
        for table in metadata.sorted_tables:
            statements = [CreateTable(table), *(CreateIndex(index) for index in table.indexes)]
            for statement in statements:
                connection.execute(str(statement.compile(dialect=dialect)).encode())

    def _delete(self, connection: psycopg.Connection, article_ids: Collection[str], *, dataset_source: str) -> None:
        tables = {"entry": table_identifier(self.entry_table), "vectors": table_identifier(self.vector_table)}
        for query in (DELETE_VECTORS, DELETE_ENTRIES):
            connection.execute(sql.SQL(query).format(**tables), [dataset_source, list(article_ids)])

    def _copy_entries(
        self, connection: psycopg.Connection, batch: EntryBatch, types: Types, *, dataset_source: str
    ) -> None:
        columns = ["cpe_id", "concept_text", "dataset_source", "document_id", "sequence_index"]
        columns += [name for name, usable in OPTIONAL_TYPES.items() if types.get(name) in usable]
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            table_identifier(self.entry_table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types([types[name] for name in columns])
            for concept, location in zip(batch.concepts, batch.locations, strict=True):
                chunk_position = {
                    "article_index": location.article_index,
                    "chunk_index": location.position,
                    "article_title": concept.title,
                }
                values = {
                    "cpe_id": _as_column(concept.cpe_id, types["cpe_id"]),
                    "concept_text": concept.text,
                    "dataset_source": dataset_source,
                    "document_id": concept.article_id,
                    "sequence_index": location.position,
                    "chunk_position": chunk_position,
                    "batch_id": _as_column(_batch_id(concept.article_id), types.get("batch_id")),
                }
                copy.write_row([values[name] for name in columns])

    def _copy_vectors(self, connection: psycopg.Connection, batch: EntryBatch, types: Types, *, space_id: str) -> None:
        query = sql.SQL("COPY {} (cpe_id, {}, space_id) FROM STDIN (FORMAT BINARY)").format(
            table_identifier(self.vector_table), sql.Identifier(self.vector_column)
        )
        cpe_ids = [concept.cpe_id for concept in batch.concepts]
        rows = vector_rows(cpe_ids, batch.vectors, space_id=space_id, is_uuid=types["cpe_id"] == "uuid")
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(COPY_HEADER + rows + COPY_END)


def vector_rows(cpe_ids: Sequence[str], vectors: NDArray[np.float32], *, space_id: str, is_uuid: bool) -> bytes:
    """Return rows of cpe_id, vector (n, D) and space id in the format of binary COPY.

    Ids are canonical UUIDs; `is_uuid` says whether the column cpe_id is a uuid, else it is text.
    """
    keys = [uuid.UUID(cpe_id).bytes if is_uuid else cpe_id.encode() for cpe_id in cpe_ids]
    packed, space = vector_bytes(vectors), space_id.encode()
    rows = np.zeros(
        len(keys),
        [
            ("num_fields", ">i2"),
            ("key_bytes", ">i4"),
            ("key", f"V{len(keys[0])}"),
            ("vector_bytes", ">i4"),
            ("vector", packed.dtype),
            ("space_bytes", ">i4"),
            ("space", f"V{len(space)}"),
        ],
    )
    rows["num_fields"] = 3
    rows["key_bytes"], rows["key"] = len(keys[0]), np.array(keys, rows.dtype["key"])
    rows["vector_bytes"], rows["vector"] = packed.dtype.itemsize, packed
    rows["space_bytes"], rows["space"] = len(space), np.void(space)
    return rows.tobytes()


def _batch_id(article_id: str) -> str:
    """Return the article's id if it is a UUID, else a UUID derived from it."""
    try:
        return str(uuid.UUID(article_id))
    except ValueError:
        return str(uuid.uuid5(NAMESPACE, article_id))


def _canonical(cpe_id: str) -> str:
    """Return a UUID in lower case with hyphens; another id, of a table with a text cpe_id, as it is."""
    try:
        return str(uuid.UUID(cpe_id))
    except ValueError:
        return cpe_id


def _as_column(key: str, type_name: str | None) -> str | uuid.UUID:
    return uuid.UUID(key) if type_name == "uuid" else key


def _column_types(connection: psycopg.Connection, table: str) -> Types:
    query = COLUMNS_QUERY.replace("$1", "%s")
    return dict(connection.execute(query.encode(), [table_identifier(table).as_string(connection)]).fetchall())


def _require_type(column: str, found: str, usable: Sequence[str]) -> None:
    if found not in usable:
        raise LvmError(f"{column} has the type {found}; rows can be loaded where it is {' or '.join(usable)}.")


def _require_pgvector(connection: psycopg.Connection) -> None:
    known = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"
    if not _value(connection, known):
        raise LvmError(
            "The database server has no pgvector; install it there (package postgresql-NN-pgvector), "
            "or unset LVM_DATABASE_URL to use the built-in Postgres."
        )
    present = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')"
    if not _value(connection, present) and not _value(
        connection, "SELECT has_database_privilege(current_database(), 'CREATE')"
    ):
        raise LvmError("The database has no extension vector; run CREATE EXTENSION vector in it as its owner.")


def _require_create(connection: psycopg.Connection) -> None:
    if not _value(connection, "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"):
        raise LvmError("The database has no source tables, and its user cannot create any; grant CREATE on the schema.")


def _value(connection: psycopg.Connection, query: str, parameters: Sequence[str] = ()) -> object:
    row = connection.execute(query.encode(), parameters).fetchone()
    return row[0] if row else None
