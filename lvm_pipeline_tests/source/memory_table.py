"""A source table in memory: what `ingest` needs of a writer, and what the tests look at."""

from collections import Counter

import numpy as np

from lvm_pipeline.source.deduplication import KnownRow, TableState
from lvm_pipeline.source.records import text_digest, vector_digests


class MemoryTable:
    """Rows by cpe_id; a write that fails half-way leaves no row."""

    def __init__(self):
        self.rows = {}
        self.num_writes = 0

    def state(self, dataset_source):
        rows = {cpe_id: row for cpe_id, row in self.rows.items() if row["dataset_source"] == dataset_source}
        known = {
            cpe_id: KnownRow(
                article_id=row["article_id"],
                position=row["position"],
                article_index=row["article_index"],
                text_digest=text_digest(row["text"]),
                vector_digest=vector_digests(row["vector"][None])[0],
            )
            for cpe_id, row in rows.items()
        }
        return TableState(rows=known, space_counts=dict(Counter(row["space_id"] for row in rows.values())))

    def write(self, batches, *, dataset_source, space_id, replaced=(), num_known=None):
        left = {
            cpe_id: row
            for cpe_id, row in self.rows.items()
            if row["dataset_source"] != dataset_source or row["article_id"] not in replaced
        }
        rows = {}
        for batch in batches:
            for concept, location, vector in zip(batch.concepts, batch.locations, batch.vectors, strict=True):
                assert concept.cpe_id not in left
                rows[concept.cpe_id] = {
                    "article_id": concept.article_id,
                    "article_index": location.article_index,
                    "position": location.position,
                    "title": concept.title,
                    "text": concept.text,
                    "vector": np.asarray(vector, np.float32),
                    "dataset_source": dataset_source,
                    "space_id": space_id,
                }
        self.rows = left | rows
        self.num_writes += 1
        return len(rows)

    def articles(self, dataset_source="user_input"):
        """Texts of each article by title, in the order of their positions, which must be 0, 1, 2 ..."""
        articles = {}
        rows = sorted(self.rows.values(), key=lambda row: (row["article_index"], row["position"]))
        for row in rows:
            if row["dataset_source"] == dataset_source:
                texts = articles.setdefault(row["title"], [])
                assert row["position"] == len(texts)
                texts.append(row["text"])
        return articles
