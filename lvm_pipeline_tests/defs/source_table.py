"""Fill a real source table with synthetic articles."""

import uuid

import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector
from sqlalchemy import create_engine

from lvm_pipeline.source.schema import source_metadata
from lvm_pipeline_tests.synthetic import synthetic_table

DATASET_SOURCE = "user_input"


def fill_source(url, article_lengths, **options):
    """Make `cpe_entry` and `cpe_vectors` in an empty database and fill them; return the rows' ids in order."""
    source_metadata().create_all(create_engine(url.replace("postgresql://", "postgresql+psycopg2://")))
    return add_articles(url, article_lengths, **options)


def fill_source_with(url, table):
    """Make the tables in an empty database and fill them with a concept table; return the rows' ids in order."""
    source_metadata().create_all(create_engine(url.replace("postgresql://", "postgresql+psycopg2://")))
    return _add(url, table, vector_dim=len(table["vector"][0]))


def add_articles(url, article_lengths, *, vector_dim=32, seed=0, kind="random_walk", label=None):
    """Add synthetic articles to the tables; those of another label have other ids and texts. Return the rows' ids."""
    table = synthetic_table(article_lengths, vector_dim=vector_dim, seed=seed, kind=kind)
    return _add(url, table, vector_dim=vector_dim, label=label)


def _add(url, table, *, vector_dim, label=None):
    columns = ("cpe_id", "article_id", "position", "concept_text", "vector")
    rows = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
    if label is not None:
        rows = [
            (_relabelled(row[0], label), _relabelled(row[1], label), row[2], f"{label}: {row[3]}", row[4])
            for row in rows
        ]
    with psycopg.connect(url) as connection:
        register_vector(connection)
        with connection.cursor().copy(
            "COPY cpe_entry (cpe_id, concept_text, dataset_source, document_id, sequence_index, batch_id) FROM STDIN"
        ) as copy:
            for cpe_id, article_id, position, text, _ in rows:
                copy.write_row((uuid.UUID(cpe_id), text, DATASET_SOURCE, article_id, position, uuid.UUID(article_id)))
        with connection.cursor().copy("COPY cpe_vectors (cpe_id, concept_vec, space_id) FROM STDIN") as copy:
            for cpe_id, _, _, _, vector in rows:
                copy.write_row((uuid.UUID(cpe_id), Vector(vector), f"synthetic-{vector_dim}"))
    return [row[0] for row in rows]


def _relabelled(identifier, label):
    return str(uuid.uuid5(uuid.UUID(identifier), label))


def execute(url, statement, *values):
    """Run one statement on the source database."""
    with psycopg.connect(url) as connection:
        connection.execute(statement, values)
