"""A source in memory, for tests of what happens between source and file."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.ordering import ColumnKind, KeyFacts, OrderRule
from lvm_pipeline.concepts.reader import SOURCE_SCHEMA, PackedCodes, SourceDescription

KINDS = {"document_id": ColumnKind.TEXT, "sequence_index": ColumnKind.INTEGER}


@dataclass
class MemorySource:
    """Gives `rows` (dicts of `SOURCE_SCHEMA`, in order) in batches of `batch_rows`, then raises `failure`."""

    rows: list[dict]
    batch_rows: int = 7
    facts: KeyFacts | None = None
    space_counts: dict = field(default_factory=lambda: {"synthetic": 1})
    packed_codes: PackedCodes | None = None
    failure: Exception | None = None
    digests: dict[str, int] | None = None
    articles_read: list[str] = field(default_factory=list)  # by the last `read_batches`

    @contextmanager
    def open(self) -> Iterator["MemorySource"]:
        yield self

    def describe(self) -> SourceDescription:
        return SourceDescription(
            source="memory",
            dataset_source="synthetic",
            num_rows=len(self.rows),
            column_kinds=KINDS,
            space_counts=self.space_counts,
            packed_codes=self.packed_codes,
        )

    def examine(self, rule: OrderRule) -> KeyFacts:
        firsts = {}
        for row in self.rows:
            firsts.setdefault(row["article_id"], row["source_position"])
        return self.facts or KeyFacts(
            num_rows=len(self.rows),
            num_keyed=len(self.rows),
            num_articles=len(firsts),
            num_from_zero=sum(first == 0 for first in firsts.values()),
            num_from_one=sum(first == 1 for first in firsts.values()),
        )

    def article_digests(self, rule: OrderRule) -> dict[str, int] | None:
        return self.digests

    def read_batches(self, rule: OrderRule, *, article_ids=None) -> Iterator[pa.RecordBatch]:
        rows = [row for row in self.rows if article_ids is None or row["article_id"] in article_ids]
        self.articles_read = list(dict.fromkeys(row["article_id"] for row in rows))
        for start in range(0, len(rows), self.batch_rows):
            yield pa.RecordBatch.from_pylist(rows[start : start + self.batch_rows], schema=SOURCE_SCHEMA)
        if self.failure is not None:
            raise self.failure


def source_rows(article_lengths, *, vector_dim=4, first_position=0, seed=0) -> list[dict]:
    """Rows of articles `article-000`, `article-001` and so on, with different texts and unit vectors."""
    rng = np.random.default_rng(seed)
    rows = []
    for article, length in enumerate(article_lengths):
        for position in range(length):
            vector = rng.standard_normal(vector_dim).astype(np.float32)
            rows.append(
                {
                    "cpe_id": f"concept-{len(rows):05}",
                    "article_id": f"article-{article:03}",
                    "source_position": position + first_position,
                    "concept_text": f"Text {position} of article {article}.",
                    "vector": (vector / np.linalg.norm(vector)).tolist(),
                }
            )
    return rows
