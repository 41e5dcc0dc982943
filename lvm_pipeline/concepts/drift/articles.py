"""The articles of a concept table: the length, the codes and some vectors of each.

The unit of comparison is the article, since the concepts of one article are alike. Two articles are equal if their
vectors and codes are, bit for bit, whatever their ids.

Shapes: A = articles, N = their concepts, n = their sampled concepts, D = vector width.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.facts import CODES, NO_CODE
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import article_ranges, read_columns, stream_row_groups, vectors_of


@dataclass(frozen=True, kw_only=True)
class ArticleSample:
    ids: list[str]  # article ids, A of them
    digests: list[bytes]  # hash of each article's vectors and codes, A of them
    lengths: NDArray[np.int64]  # concepts of each, shape (A,)
    codes: NDArray[np.int16]  # domain, task, modifier of each concept, -1 where missing, shape (N, 3)
    num_sampled: NDArray[np.int64]  # sampled concepts of each, shape (A,)
    vectors: NDArray[np.float32]  # vectors of the sampled concepts, shape (n, D)

    @property
    def num_articles(self) -> int:
        return len(self.ids)

    @property
    def num_concepts(self) -> int:
        return len(self.codes)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Article of each sampled concept, shape (n,)."""
        return np.repeat(np.arange(self.num_articles), self.num_sampled)

    def take(self, articles: Sequence[int]) -> "ArticleSample":
        return ArticleSample(
            ids=[self.ids[article] for article in articles],
            digests=[self.digests[article] for article in articles],
            lengths=self.lengths[articles],
            codes=self.codes[_rows_of(articles, self.lengths)],
            num_sampled=self.num_sampled[articles],
            vectors=self.vectors[_rows_of(articles, self.num_sampled)],
        )

    def followed_by(self, other: "ArticleSample") -> "ArticleSample":
        return ArticleSample(
            ids=self.ids + other.ids,
            digests=self.digests + other.digests,
            lengths=np.concatenate([self.lengths, other.lengths]),
            codes=np.concatenate([self.codes, other.codes]),
            num_sampled=np.concatenate([self.num_sampled, other.num_sampled]),
            vectors=np.concatenate([self.vectors, other.vectors]),
        )


def read_articles(path: Path, *, max_sampled: int) -> ArticleSample:
    """Read a concept table once, row group by row group; of an article at most `max_sampled` concepts are sampled.

    Raises:
        LvmError: If the table cannot be read, lacks a vector, or has an article in more than one run.
    """
    articles = article_ranges(path)
    columns = read_columns(path, CODES)
    codes = np.stack([columns[name].fill_null(NO_CODE).to_numpy() for name in CODES], axis=1)
    first_rows, ends = articles.first_rows, articles.first_rows + articles.lengths
    hashes = [hashlib.blake2b(codes[a:b].tobytes(), digest_size=16) for a, b in zip(first_rows, ends, strict=True)]
    num_sampled = np.minimum(articles.lengths, max_sampled)
    rows = _spread_rows(first_rows, articles.lengths, num_sampled)
    vectors = np.empty((len(rows), read_concepts_metadata(path).vector_dim), np.float32)
    start = 0
    for group in stream_row_groups(path, ["vector"]):
        block = np.ascontiguousarray(vectors_of(group, vectors.shape[1]))
        stop = start + len(block)
        sampled = slice(*np.searchsorted(rows, [start, stop]))
        vectors[sampled] = block[rows[sampled] - start]
        for article in range(np.searchsorted(ends, start, side="right"), np.searchsorted(first_rows, stop)):
            hashes[article].update(block[max(first_rows[article] - start, 0) : ends[article] - start].data)
        start = stop
    return ArticleSample(
        ids=articles.ids,
        digests=[each.digest() for each in hashes],
        lengths=articles.lengths,
        codes=codes,
        num_sampled=num_sampled,
        vectors=vectors,
    )


def _spread_rows(
    first_rows: NDArray[np.int64], lengths: NDArray[np.int64], num_sampled: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows of evenly spread concepts of each article, shape (n,), ascending."""
    within = np.arange(num_sampled.sum()) - np.repeat(np.cumsum(num_sampled) - num_sampled, num_sampled)
    first_rows, lengths, wanted = (np.repeat(each, num_sampled) for each in (first_rows, lengths, num_sampled))
    return first_rows + (2 * within + 1) * lengths // (2 * wanted)


def _rows_of(articles: Sequence[int], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.cumsum(lengths)
    pieces = (np.arange(ends[article] - lengths[article], ends[article]) for article in articles)
    return np.concatenate([np.empty(0, np.int64), *pieces])


class ArticleChanges(NamedTuple):
    """How the articles of two tables differ.

    `arrived` are indices into the present table: articles that are new or have other content. `kept` and `left` are
    indices into the earlier one: articles with unchanged content, and those whose content and id are both gone.
    """

    arrived: list[int]
    kept: list[int]
    left: list[int]


def changes_between(before: ArticleSample, present: ArticleSample) -> ArticleChanges:
    """Match the articles of two tables by content."""
    digests_before, digests_now, ids_now = set(before.digests), set(present.digests), set(present.ids)
    numbered = list(enumerate(zip(before.ids, before.digests, strict=True)))
    return ArticleChanges(
        arrived=[article for article, digest in enumerate(present.digests) if digest not in digests_before],
        kept=[article for article, (_, digest) in numbered if digest in digests_now],
        left=[article for article, (name, digest) in numbered if digest not in digests_now and name not in ids_now],
    )
