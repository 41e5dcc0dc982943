"""Tables whose vectors are made from their texts: each word has a vector, a concept the direction of their sum."""

import datetime

import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.schema import concepts_schema
from lvm_pipeline_tests.synthetic import synthetic_table

WORDS_OF_CONCEPT = 14
NUM_TOPICS = 12
NUM_WORDS = 300


def worded_table(article_lengths, *, vector_dim=32, seed=0, separator=" ", alphabet="abcdefghijklmnopqrst", decay=0.0):
    """A valid concept table; concepts of one article share a topic, and each drifts on from the one before.

    With a `decay` above 0, vectors lie mostly along few directions, as those of encoders do.
    """
    rng = np.random.default_rng(seed)
    words = np.array(["".join(rng.choice(list(alphabet), 5)) for _ in range(NUM_WORDS)])
    scales = np.arange(1, vector_dim + 1) ** -decay
    word_vectors = rng.standard_normal((NUM_WORDS, vector_dim)) * scales
    topics = rng.dirichlet(np.full(NUM_WORDS, 0.05), size=NUM_TOPICS)
    chosen = []
    for length in article_lengths:
        mix = 0.7 * topics[rng.integers(NUM_TOPICS)] + 0.3 / NUM_WORDS
        last = rng.choice(NUM_WORDS, WORDS_OF_CONCEPT, p=mix)
        for _ in range(length):
            last = np.where(rng.random(WORDS_OF_CONCEPT) < 0.5, last, rng.choice(NUM_WORDS, WORDS_OF_CONCEPT, p=mix))
            chosen.append(last)
    vectors = word_vectors[np.array(chosen)].sum(axis=1) + 0.3 * scales * rng.standard_normal((len(chosen), vector_dim))
    table = synthetic_table(article_lengths, vector_dim=vector_dim, seed=seed)
    texts = pa.array([separator.join(words[row]) for row in chosen])
    return with_columns(table, concept_text=texts, vector=vector_column(vectors))


def vector_column(vectors):
    """Vectors (N, D) as a column, each of length 1."""
    unit = np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(unit.ravel()), type=concepts_schema(unit.shape[1]).field("vector").type
    )


def with_columns(table, **columns):
    """Replace columns of a table by arrays, or by values, which become arrays of the column's type."""
    for name, values in columns.items():
        field = table.schema.field(name)
        is_array = isinstance(values, pa.Array | pa.ChunkedArray)
        column = values if is_array else pa.array(values, type=field.type)
        table = table.set_column(table.schema.get_field_index(name), field, column)
    return table


def vectors_in(table):
    """The vectors of a table, shape (N, D)."""
    return table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


def rotated(vectors, *, seed=1):
    """The vectors in another space of the same width."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((vectors.shape[1],) * 2))
    return (vectors @ rotation).astype(np.float32)


def created(rows_by_day):
    """A column created_at: so many rows a day, from 1 May 2026 on."""
    start = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
    days = [start + datetime.timedelta(days=day) for day, num in enumerate(rows_by_day) for _ in range(num)]
    return pa.array(days, pa.timestamp("us", tz="UTC"))


def directed(articles, *, vector_dim=64, seed=1):
    """Unit vectors of concepts of some articles, with a mean and a few leading directions as encoders have them."""
    rng = np.random.default_rng(seed)
    scales = np.arange(1, vector_dim + 1) ** -0.9
    topics = rng.standard_normal((articles.max() + 1, vector_dim))[articles]
    vectors = (topics + rng.standard_normal(topics.shape)) * scales
    vectors[:, 0] += 2
    vectors = rotated(vectors, seed=5)  # the same for every seed
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
