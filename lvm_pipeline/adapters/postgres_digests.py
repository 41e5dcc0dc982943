"""Detect which articles have changed since an earlier extraction, by the versions of their rows.

Postgres never changes a row in place: an update writes a new version, at another place (`ctid`) or by another
transaction (`xmin`). So place and transaction of all rows of an article say whether it is still the same, and no
vector is read. Hashing the contents would say more, but costs more than reading them (`benchmarks/extraction.py`).

Places and transactions mean something only in one set of files: the digest includes the server's identity and timeline
and the tables' files, which a restored backup, a rewritten table or a promoted replica do not share. A column that is
renamed, or added with a default value, changes no row version, so the columns are part of the digest too: their names
in their order, and how many there ever were.
"""

import hashlib

from psycopg import sql

from lvm_pipeline.adapters.postgres_queries import article_order, key_of
from lvm_pipeline.adapters.postgres_tables import Tables
from lvm_pipeline.concepts.ordering import OrderRule

EXTRACTION_VERSION = 1  # to be raised when the same rows are read to other concepts
# A partitioned table has several files.
STORAGE_QUERY = """
    SELECT (SELECT system_identifier FROM pg_control_system())::text AS system,
      (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline, current_database()::text AS database,
      (SELECT string_agg(concat_ws(':', oid, pg_relation_filenode(oid), relnatts), ',' ORDER BY oid) FROM (
        SELECT to_regclass(name)::oid AS oid FROM unnest(ARRAY[$1{second}]) AS name
        UNION SELECT tree.relid FROM unnest(ARRAY[$1{second}]) AS name, pg_partition_tree(to_regclass(name)) AS tree
      ) AS relations JOIN pg_catalog.pg_class USING (oid)) AS files"""


def storage_query(num_tables: int) -> str:
    """Describe the server and the files of one or two tables."""
    return STORAGE_QUERY.format(second=", $2" if num_tables == 2 else "")


def digests_query(rule: OrderRule, tables: Tables, rows: sql.Composable) -> sql.Composable:
    """Select each article with the number of its rows and a sum over their versions, in the rule's order."""
    article, _ = key_of(rule, tables.entry)
    versions = [sql.SQL("{0}.tableoid, {0}.ctid, {0}.xmin").format(sql.Identifier(table.alias)) for table in tables.all]
    return sql.SQL(
        "SELECT ({article})::text AS article_id, count(*) || ':' || "
        "sum(hashtextextended(concat_ws(',', {versions}), 0)::numeric) AS versions "
        "{rows} GROUP BY {article} ORDER BY {order}"
    ).format(article=article, versions=sql.SQL(", ").join(versions), rows=rows, order=article_order(rule, tables.entry))


def digest(recipe: str, versions: str) -> int:
    """Return the digest of an article from the versions of its rows, and from how they are read."""
    key = hashlib.sha256(f"{EXTRACTION_VERSION} {recipe}".encode()).digest()
    return int.from_bytes(hashlib.blake2b(versions.encode(), digest_size=8, key=key).digest(), signed=True)
