"""Articles and rows as people give them."""

import numpy as np
import pyarrow as pa

from lvm_pipeline.source.encoders.encoder import unit_length

DIM = 8


def article(name, num_concepts=6, **fields):
    return {"title": name, "concepts": [f"{name} says thing {i} of {name}." for i in range(num_concepts)], **fields}


def articles(num=12):
    return [article(f"article {chr(97 + i)}") for i in range(num)]


def rows(lengths=(3, 2), *, vector_type=None, **columns):
    """A table of articles with the given lengths; `columns` replace whole columns, a value None drops one."""
    num = sum(lengths)
    vectors = unit_length(np.random.default_rng(3).standard_normal((num, DIM)))
    values = {
        "article_id": [f"a{i}" for i, n in enumerate(lengths) for _ in range(n)],
        "position": [position for n in lengths for position in range(n)],
        "concept_text": [f"text {row}" for row in range(num)],
        "vector": pa.array(vectors.tolist(), vector_type or pa.list_(pa.float32())),
    } | columns
    return pa.table({name: column for name, column in values.items() if column is not None})
