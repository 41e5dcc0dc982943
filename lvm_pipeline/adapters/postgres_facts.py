"""Facts about a Postgres server, for `lvm doctor`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from lvm_pipeline.adapters import databases
from lvm_pipeline.adapters.postgres_tables import table_identifier
from lvm_pipeline.errors import LvmError, first_line

FACTS_QUERY = """
SELECT current_setting('server_version') AS version,
  (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector,
  (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS available_pgvector"""

SIZE_QUERY = """
WITH named AS (SELECT to_regclass(name) AS relid FROM unnest(%s::text[]) AS name)
SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM (
  SELECT relid FROM named UNION SELECT tree.relid FROM named, pg_partition_tree(named.relid) AS tree) AS relations"""


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """Versions of the server, of pgvector in the database, and of pgvector available on the server."""

    where: str
    version: str
    pgvector: str | None
    available_pgvector: str | None


def server_facts(url: str) -> ServerFacts:
    """Connect to a database and return the facts about its server. Raises LvmError if it cannot be reached."""
    databases.check_connection(url)
    version, pgvector, available = _answer(url, FACTS_QUERY)[0]
    return ServerFacts(where=databases.shown(url), version=version, pgvector=pgvector, available_pgvector=available)


def size_bytes(url: str, tables: Sequence[str]) -> int:
    """Return the size of tables on disk, including vectors, indexes and partitions; 0 for views."""
    names = [table_identifier(name).as_string(None) for name in tables]
    return _answer(url, SIZE_QUERY, names)[0][0]


def has_database(url: str, name: str) -> bool:
    return bool(_answer(url, "SELECT 1 FROM pg_database WHERE datname = %s", name))


def has_table(url: str, name: str) -> bool:
    return _answer(url, "SELECT to_regclass(%s) IS NOT NULL", name)[0][0]


def _answer(url: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    try:
        with databases.connect(url) as connection:
            return connection.execute(query.encode(), parameters).fetchall()
    except psycopg.Error as error:
        where = databases.shown(url)
        raise LvmError(f"A query of the database at {where} failed ({first_line(error)}); see its log.") from None
