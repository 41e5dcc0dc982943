"""Articles around topics, and concept tables of them, for the tests of drift."""

import uuid
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.schema import concepts_schema
from lvm_pipeline_tests.synthetic import write_table

NAMESPACE = uuid.UUID(int=11)
VECTOR_DIM = 16
LENGTHS = (5, 12)  # shortest and longest article


@dataclass(frozen=True)
class MadeArticle:
    """An article as it goes into a table."""

    name: str
    vectors: np.ndarray  # (n, D)
    codes: np.ndarray  # (n, 3)


def make_articles(count, *, name="article", seed=0, lengths=LENGTHS, centre=0.0, domains=(1, 2, 3)):
    """Articles of unit vectors, each around a topic of its own; `centre` shifts all topics along the first axis."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        length = int(rng.integers(*lengths, endpoint=True))
        topic = rng.standard_normal(VECTOR_DIM) + centre * np.eye(VECTOR_DIM)[0]
        vectors = topic + 0.7 * rng.standard_normal((length, VECTOR_DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        codes = np.stack([rng.choice(domains, length), rng.integers(1, 5, length), rng.integers(1, 9, length)], axis=1)
        made.append(MadeArticle(f"{name} {number}", vectors.astype(np.float32), codes))
    return made


def without_codes(articles):
    """The same articles with no TMD code."""
    return [replace(article, codes=np.full_like(article.codes, -1)) for article in articles]


def id_of(article):
    """The article's id in a table."""
    return str(uuid.uuid5(NAMESPACE, article.name))


def write_articles(path, articles, *, space_id="synthetic"):
    """Write a concept table of the articles, sorted by their ids."""
    articles = sorted(articles, key=id_of)
    lengths = [len(article.vectors) for article in articles]
    num = sum(lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])
    ids = np.repeat([id_of(article) for article in articles], lengths).tolist()
    schema = concepts_schema(VECTOR_DIM)
    codes = np.concatenate([article.codes for article in articles])
    columns = {
        "row": np.arange(num),
        "cpe_id": [str(uuid.uuid5(NAMESPACE, f"{name}#{p}")) for name, p in zip(ids, positions, strict=True)],
        "article_id": ids,
        "article_index": np.repeat(np.arange(len(articles)), lengths),
        "position": positions,
        "concept_text": [f"Concept {row}." for row in range(num)],
        **{name: _nullable(codes[:, column]) for column, name in enumerate(("domain", "task", "modifier"))},
    }
    for name in ("tmd_dense", "soft_negatives", "hard_negatives", "created_at"):
        columns[name] = pa.nulls(num, schema.field(name).type)
    flat = pa.array(np.concatenate([article.vectors for article in articles]).ravel())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type)
    return write_table(pa.table(columns, schema=schema), path, space_id=space_id)


def _nullable(codes):
    return pa.array(codes, pa.int16(), mask=codes < 0)
