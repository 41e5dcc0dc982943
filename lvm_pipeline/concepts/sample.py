"""A sample of whole articles with texts and vectors, for the checks that need both.

Vectors are stored as their leading principal components, so memory is bounded for any vector width and table size.

Shapes: n = sampled concepts, A = sampled articles, D = vector width, K = components.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.concepts.other_space import Directions, directions_of
from lvm_pipeline.concepts.store import stream_row_groups
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.space_fingerprint import leading_directions

MAX_CONCEPTS = 48_000
MAX_BYTES = 200_000_000  # of vectors read at full width
NUM_COMPONENTS = 128
BASIS_CONCEPTS = 6_000
WIDE = 1536
MAX_PIECE = 128  # concepts of an article compared with each other at once


@dataclass(frozen=True)
class Basis:
    """The leading principal directions of some vectors."""

    mean: NDArray[np.float32]  # shape (D,)
    directions: NDArray[np.float32]  # shape (K, D)

    def components(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vectors (n, D), centred, in this basis, shape (n, K)."""
        found = np.empty((len(vectors), len(self.directions)), np.float32)
        for at in range(0, len(vectors), 8192):
            found[at : at + 8192] = (vectors[at : at + 8192] - self.mean) @ self.directions.T
        return found


@dataclass(frozen=True, kw_only=True)
class ConceptSample:
    """Some whole articles, in table order."""

    rows: NDArray[np.int64]  # row of each concept, shape (n,), ascending inside an article
    articles: NDArray[np.int64]  # article of each concept, shape (n,), from 0, ascending
    article_codes: NDArray[np.int64]  # index of each article into `ConceptFacts.article_ids`, shape (A,)
    texts: pa.Array  # text of each concept
    vectors: NDArray[np.float32]  # centred, in the basis of their principal directions, shape (n, K)
    basis: Basis  # of `vectors`
    directions: Directions | None  # where the vectors point; None if they are too few to tell
    scores: NDArray[np.float32]  # how well each vector fits the directions, shape (n,); 1 without any
    is_whole: bool  # whether these are all articles of the table

    @property
    def num_articles(self) -> int:
        """A."""
        return len(self.article_codes)


def read_sample(
    path: Path,
    *,
    article_codes: NDArray[np.int32],
    vector_dim: int,
    usable: NDArray[np.bool_],
    also: Sequence[int] = (),
) -> ConceptSample:
    """Read whole articles, evenly spread over the table; all of them where there is room.

    Args:
        path: The table.
        article_codes: Article of each row, shape (N,).
        vector_dim: D.
        usable: Whether a row has a finite vector of width D, shape (N,); other rows are left out.
        also: Articles that are read whether or not they are among the spread ones, as indices like `article_codes`.

    Raises:
        LvmError: If the table cannot be read.
    """
    chosen = _spread_articles(article_codes, max_rows=max_rows_of(vector_dim))
    chosen[list(also)] = True
    wanted = np.flatnonzero(usable & chosen[article_codes])
    texts, vectors = _texts_and_vectors(path, wanted, vector_dim)
    order = np.argsort(article_codes[wanted], kind="stable")  # an article in two runs becomes one
    if (np.diff(order) != 1).any():
        texts, vectors = texts.take(pa.array(order)), vectors[order]
    codes, articles = np.unique(article_codes[wanted[order]], return_inverse=True)
    return sample_of(
        texts, articles, vectors, rows=wanted[order], article_codes=codes.astype(np.int64), is_whole=bool(chosen.all())
    )


def sample_of(
    texts: pa.Array,
    articles: NDArray[np.int64],
    vectors: NDArray[np.float32],
    *,
    rows: NDArray[np.int64] | None = None,
    article_codes: NDArray[np.int64] | None = None,
    is_whole: bool = True,
) -> ConceptSample:
    """Prepare whole articles for the checks.

    Args:
        texts: Text of each concept, n of them.
        articles: Article of each concept, shape (n,), from 0, ascending.
        vectors: Shape (n, D).
        rows: Row of each concept, shape (n,); by default these are all rows.
        article_codes: Index of each article among those of the table, shape (A,); by default these are all articles.
        is_whole: Whether these are all articles of the table.
    """
    basis, directions = basis_of(vectors), directions_of(vectors)
    return ConceptSample(
        rows=np.arange(len(articles)) if rows is None else rows,
        articles=articles,
        article_codes=np.arange(articles.max(initial=-1) + 1) if article_codes is None else article_codes,
        texts=texts,
        vectors=basis.components(vectors),
        basis=basis,
        directions=directions,
        scores=np.ones(len(articles), np.float32) if directions is None else directions.scores(vectors),
        is_whole=is_whole,
    )


def max_rows_of(vector_dim: int) -> int:
    """Return the approximate maximum number of concepts in a sample of vectors of this width."""
    return min(MAX_CONCEPTS, MAX_BYTES // (4 * max(1, vector_dim)))


def _spread_articles(article_codes: NDArray[np.int32], *, max_rows: int) -> NDArray[np.bool_]:
    """Choose evenly spread articles of at most about `max_rows` concepts in all, shape (articles,)."""
    lengths = np.bincount(article_codes)
    num_wanted = max(1, int(len(lengths) * min(1, max_rows / max(1, lengths.sum()))))
    chosen = np.zeros(len(lengths), np.bool_)
    if len(lengths):
        chosen[np.linspace(0, len(lengths) - 1, num_wanted).astype(np.int64)] = True
    return chosen


def _texts_and_vectors(path: Path, rows: NDArray[np.int64], vector_dim: int) -> tuple[pa.Array, NDArray[np.float32]]:
    texts: list[pa.Array] = [pa.array([], pa.string())]
    vectors = np.empty((len(rows), vector_dim), np.float32)
    first_row, filled = 0, 0
    for group in stream_row_groups(path, ["concept_text", "vector"]):
        stop = filled + int(np.searchsorted(rows[filled:], first_row + group.num_rows))
        some = group.take(pa.array(rows[filled:stop] - first_row))
        texts.append(some["concept_text"].combine_chunks())
        vectors[filled:stop] = some["vector"].combine_chunks().flatten().to_numpy().reshape(-1, vector_dim)
        first_row, filled = first_row + group.num_rows, stop
    if filled < len(rows):
        raise LvmError(f"{path} holds {first_row} concepts, fewer than it says; extract the concepts again.")
    return pa.concat_arrays(texts), vectors


def basis_of(vectors: NDArray[np.float32]) -> Basis:
    """Return the K leading principal directions of vectors (n, D)."""
    if not len(vectors):
        return Basis(
            np.zeros(vectors.shape[1], np.float32), np.eye(vectors.shape[1], dtype=np.float32)[:NUM_COMPONENTS]
        )
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    num_concepts = BASIS_CONCEPTS if vectors.shape[1] <= WIDE else WIDE  # products of either are then few
    some = vectors[:: -(-len(vectors) // num_concepts)] - mean
    return Basis(mean, leading_directions(some, min(NUM_COMPONENTS, *some.shape)))


def pieces_of(lengths: NDArray[np.int64], *, min_length: int) -> list[tuple[int, int]]:
    """Cut long articles into pieces, leave out those that are too short; return first row and end of each piece."""
    pieces: list[tuple[int, int]] = []
    for stop, length in zip(np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
        edges = np.linspace(stop - length, stop, -(-length // MAX_PIECE) + 1).astype(int).tolist()
        pieces += [piece for piece in pairwise(edges) if piece[1] - piece[0] >= min_length]
    return pieces
