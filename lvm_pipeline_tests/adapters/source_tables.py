"""Source tables made by plain SQL, as they are found, for tests of the reader."""

import json
import uuid

import numpy as np
import psycopg
import pyarrow.parquet as pq
from psycopg import sql

from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.adapters.postgres_tables import table_identifier
from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.findings import blocking_failures

DIM = 8
NAMESPACE = uuid.UUID(int=11)
ENTRY_COLUMNS = {
    "cpe_id": "uuid primary key",
    "concept_text": "text",
    "dataset_source": "text",
    "document_id": "text",
    "sequence_index": "integer",
    "chunk_position": "jsonb",
    "batch_id": "uuid",
    "created_at": "timestamptz",
    "domain_code": "smallint",
    "task_code": "smallint",
    "modifier_code": "smallint",
    "tmd_bits": "smallint",
    "soft_negatives": "jsonb",
    "hard_negatives": "jsonb",
}
ORDER_COLUMNS = ("document_id", "sequence_index", "chunk_position", "batch_id", "created_at")


def id_of(name):
    return str(uuid.uuid5(NAMESPACE, name))


def vector_of(article, position):
    vector = np.random.default_rng([article, position]).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def good_rows(lengths=(6, 7, 12)):
    """Entries of some articles with every order column, in order."""
    return [
        {
            "cpe_id": id_of(f"{article}#{position}"),
            "concept_text": f"Text {position} of article {article}.",
            "dataset_source": "user_input",
            "document_id": f"article-{article}",
            "sequence_index": position,
            "chunk_position": {"article_index": article, "chunk_index": position, "article_title": f"Title {article}"},
            "batch_id": id_of(f"batch {article}"),
            "created_at": f"2025-01-0{article + 1} 00:00:{position:02}+00",
            "vector": vector_of(article, position),
        }
        for article, length in enumerate(lengths)
        for position in range(length)
    ]


def without(rows, *columns):
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def with_changes(rows, changes):
    return [{**row, **changes.get(number, {})} for number, row in enumerate(rows)]


def shuffled(rows):
    return [rows[number] for number in np.random.default_rng(5).permutation(len(rows))]


def execute(url, *statements):
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def written(vector, vector_type):
    """A vector as text that casts to its type."""
    if vector is None or isinstance(vector, str):
        return vector
    numbers = ",".join("NULL" if number is None else repr(float(number)) for number in vector)
    return "{" + numbers + "}" if vector_type.endswith("]") else "[" + numbers + "]"


def load(
    url,
    rows,
    *,
    vector_type="vector",
    home="cpe_vectors",
    entry="cpe_entry",
    column="concept_vec",
    entry_columns=None,
    space_id="test@1",
):
    """Create both tables by plain SQL and insert rows; columns that no row has are left out of the entry table."""
    types = {**ENTRY_COLUMNS, **(entry_columns or {})}
    names = [name for name in types if any(name in row for row in rows)]
    definitions = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(types[name])) for name in names]
    is_own_table = home != entry
    if not is_own_table:
        definitions.append(sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(vector_type)))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE TABLE {} ({})").format(table_identifier(entry), sql.SQL(", ").join(definitions))
        )
        if is_own_table:
            connection.execute(
                sql.SQL("CREATE TABLE {} (cpe_id {}, {} {}, space_id text)").format(
                    table_identifier(home),
                    sql.SQL(types["cpe_id"].split()[0]),
                    sql.Identifier(column),
                    sql.SQL(vector_type),
                )
            )
        for row in rows:
            values = {
                name: json.dumps(row[name]) if isinstance(row.get(name), dict | list) else row.get(name)
                for name in names
            }
            vector = written(row.get("vector"), vector_type)
            if not is_own_table:
                values[column] = vector
            insert(connection, entry, values)
            if is_own_table and vector is not None:
                insert(connection, home, {"cpe_id": row["cpe_id"], column: vector, "space_id": space_id})
    return rows


def insert(connection, table, values):
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        table_identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
    )
    connection.execute(query, list(values.values()))


def extract(url, tmp_path, *, options=None, progress=None, **reader):
    return extract_concepts(
        PostgresReader(url, **reader),
        options=options or ExtractOptions(),
        staged_path=tmp_path / "staged.parquet",
        progress=progress,
    )


def table_of(extraction):
    assert extraction.path is not None, [finding.message for finding in blocking_failures(extraction.findings)]
    return pq.read_table(extraction.path)


def failure_of(extraction):
    (finding,) = blocking_failures(extraction.findings)
    assert extraction.path is None
    return finding


def texts_of(rows):
    return [row["concept_text"] for row in rows]
