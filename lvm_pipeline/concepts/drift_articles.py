"""Articles as drift is measured on them: each with its length, its codes and a few of its vectors.

Whole articles are what is compared, since the concepts of one article are alike: an article is as before when its
vectors and codes are, bit for bit, whatever its id.

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
from lvm_pipeline.concepts.store import Articles, article_ranges, read_columns, stream_row_groups, vectors_of


@dataclass(frozen=True, kw_only=True)
class ArticleSample:
    """Some articles, one after the other.

    Attributes:
        ids: Their ids, A of them.
        digests: Hash of each article's vectors and codes, A of them.
        lengths: Concepts of each, shape (A,).
        codes: Domain, task, modifier of each concept, -1 where there is none, shape (N, 3).
        num_sampled: Sampled concepts of each, shape (A,).
        vectors: Their vectors, shape (n, D).
    """

    ids: list[str]
    digests: list[bytes]
    lengths: NDArray[np.int64]
    codes: NDArray[np.int16]
    num_sampled: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @property
    def num_articles(self) -> int:
        """A."""
        return len(self.ids)

    @property
    def num_concepts(self) -> int:
        """N."""
        return len(self.codes)

    def take(self, articles: Sequence[int]) -> "ArticleSample":
        """Keep some of the articles, in the given order."""
        return ArticleSample(
            ids=[self.ids[article] for article in articles],
            digests=[self.digests[article] for article in articles],
            lengths=self.lengths[articles],
            codes=self.codes[_rows_of(articles, self.lengths)],
            num_sampled=self.num_sampled[articles],
            vectors=self.vectors[_rows_of(articles, self.num_sampled)],
        )

    def followed_by(self, other: "ArticleSample") -> "ArticleSample":
        """Return these articles and then the others."""
        return ArticleSample(
            ids=self.ids + other.ids,
            digests=self.digests + other.digests,
            lengths=np.concatenate([self.lengths, other.lengths]),
            codes=np.concatenate([self.codes, other.codes]),
            num_sampled=np.concatenate([self.num_sampled, other.num_sampled]),
            vectors=np.concatenate([self.vectors, other.vectors]),
        )


def read_articles(path: Path, *, max_sampled: int) -> ArticleSample:
    """Read a concept table once, row group by row group.

    Args:
        path: The table.
        max_sampled: Concepts of an article that are sampled, at most; they are spread evenly over it.

    Raises:
        LvmError: If the table cannot be read, lacks a vector, or has articles in more than one run.
    """
    articles = article_ranges(path)
    columns = read_columns(path, CODES)
    codes = np.stack([columns[name].fill_null(NO_CODE).to_numpy() for name in CODES], axis=1)
    num_sampled = np.minimum(articles.lengths, max_sampled)
    rows = _spread_rows(articles, num_sampled)
    vectors = np.empty((len(rows), read_concepts_metadata(path).vector_dim), np.float32)
    ends = articles.first_rows + articles.lengths
    hashes = [
        hashlib.blake2b(codes[first:end].tobytes(), digest_size=16)
        for first, end in zip(articles.first_rows, ends, strict=True)
    ]
    start = 0
    for group in stream_row_groups(path, ["vector"]):
        block = np.ascontiguousarray(vectors_of(group, vectors.shape[1]))
        stop = start + len(block)
        within = slice(*np.searchsorted(rows, [start, stop]))
        vectors[within] = block[rows[within] - start]
        for article in _touched(articles, start, stop):
            first, end = articles.first_rows[article] - start, ends[article] - start
            hashes[article].update(block[max(first, 0) : end].data)
        start = stop
    return ArticleSample(
        ids=articles.ids,
        digests=[each.digest() for each in hashes],
        lengths=articles.lengths,
        codes=codes,
        num_sampled=num_sampled,
        vectors=vectors,
    )


def _touched(articles: Articles, start: int, stop: int) -> range:
    """Return the articles that have rows among start to stop - 1."""
    first, last = np.searchsorted(articles.first_rows, [start, stop - 1], side="right") - 1
    return range(int(first), int(last) + 1)


def _spread_rows(articles: Articles, num_sampled: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of evenly spread concepts of each article, shape (n,), ascending."""
    within = np.arange(num_sampled.sum()) - np.repeat(np.cumsum(num_sampled) - num_sampled, num_sampled)
    lengths, wanted = np.repeat(articles.lengths, num_sampled), np.repeat(num_sampled, num_sampled)
    return np.repeat(articles.first_rows, num_sampled) + (2 * within + 1) * lengths // (2 * wanted)


def _rows_of(articles: Sequence[int], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    first_rows = np.cumsum(lengths) - lengths
    pieces = [np.arange(first_rows[article], first_rows[article] + lengths[article]) for article in articles]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


class ArticleChanges(NamedTuple):
    """What became of articles between two tables.

    `arrived` are indices into the present table: articles that are new or whose content changed. `kept` and `left` are
    indices into the earlier one: articles that are as before, and those of which neither content nor id is there.
    """

    arrived: list[int]
    kept: list[int]
    left: list[int]


def changes_between(before: ArticleSample, present: ArticleSample) -> ArticleChanges:
    """Find which articles arrived, were kept and left."""
    digests_before, digests_now, ids_now = set(before.digests), set(present.digests), set(present.ids)
    numbered = list(enumerate(zip(before.ids, before.digests, strict=True)))
    return ArticleChanges(
        arrived=[article for article, digest in enumerate(present.digests) if digest not in digests_before],
        kept=[article for article, (_, digest) in numbered if digest in digests_now],
        left=[article for article, (name, digest) in numbered if digest not in digests_now and name not in ids_now],
    )
