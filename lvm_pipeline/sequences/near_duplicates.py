"""Find concepts that appear in two articles: the same text after normalisation, or cosine >= 0.99.

Exact, and fast because of a bound. Let P be any orthonormal basis of k directions and
r(x) = sqrt(1 - |Px|^2) the length of a unit vector outside it. Then x . y <= Px . Py + r(x) r(y),
which is one dot product of k + 1 numbers instead of D. Pairs below the threshold there need no
second look; the few others are decided on their full vectors. The k + 1 numbers make a unit vector, and
their distance is never longer than that of the full ones, so rows meet only those of near cells (`cells`).

Shapes: N = concepts, D = vector width, A = articles, M = pairs or links.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.sequences.cells import meetings

MIN_COSINE = 0.99
NUM_DIRECTIONS = 63  # with the length outside them, 64 numbers a concept
SAMPLE_CONCEPTS = 2048  # enough to find good directions; the bound holds for any
TILE = (1024, 4096)  # rows by rows compared at once: 16 MB of float32
PAIRS_AT_ONCE = 4096
BOUND_SLACK = 1e-4  # float32 rounding of the bound, generously

_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class NearDuplicateLinks:
    """Pairs of articles that share a near-duplicate concept, each with one pair of rows as witness.

    The links connect whatever is connected and no more (a spanning forest): a third article that
    repeats the same concept is linked to one of the others, not to both. So M < A, and two articles
    of one group that lie in different splits always show as at least one link between splits.

    Attributes:
        articles: The two articles of each link, shape (M, 2), sorted.
        rows: The two rows that are near-duplicates, shape (M, 2), smaller row first.
        groups: Group of each article, shape (A,), named by its first article.
    """

    articles: NDArray[np.int64]
    rows: NDArray[np.int64]
    groups: NDArray[np.int64]


def normalised_text(text: str) -> str:
    """Reduce a text to its words: NFKC, case folded, runs of space and punctuation to one space.

    Example:
        >>> normalised_text("  The “CAFÉ”,  again… ")
        'the café again'
    """
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def find_near_duplicates(
    vectors: NDArray[np.float32],
    texts: Sequence[str | None],
    article_indices: NDArray[np.integer],
    *,
    min_cosine: float = MIN_COSINE,
) -> NearDuplicateLinks:
    """Find which articles share near-duplicate concepts.

    Memory stays near 100 float32 a concept beside the vectors, which may be a memory map. A concept
    without words or with a vector that is zero or not finite takes part with its other half only.

    Args:
        vectors: Shape (N, D); any length, compared by cosine.
        texts: N texts.
        article_indices: Article of each concept, shape (N,), values from 0.
        min_cosine: Cosine from which two vectors count as near-duplicates, in (0, 1].
    """
    article_indices = np.asarray(article_indices, dtype=np.int64)
    links = _Links(article_indices)
    links.add(_equal_texts(texts))
    for pairs in _close_vectors(vectors, links, min_cosine=min_cosine):
        links.add(pairs)
    return links.result()


class _Links:
    """Grows the links; a pair of rows within one group adds nothing."""

    def __init__(self, article_indices: NDArray[np.int64]):
        self._articles = article_indices
        self._groups = np.arange(int(article_indices.max(initial=-1)) + 1)
        self._rows: list[tuple[int, int]] = []

    def open_pairs(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep the pairs (M, 2) of rows that would join two groups."""
        groups = self._groups[self._articles[pairs]]
        return pairs[groups[:, 0] != groups[:, 1]]

    def add(self, pairs: NDArray[np.int64]) -> None:
        for row, other in self.open_pairs(pairs).tolist():
            first, second = sorted(self._groups[self._articles[[row, other]]])
            if first != second:
                self._groups[self._groups == second] = first
                self._rows.append((min(row, other), max(row, other)))

    def result(self) -> NearDuplicateLinks:
        rows = np.array(sorted(self._rows), dtype=np.int64).reshape(-1, 2)
        return NearDuplicateLinks(articles=self._articles[rows], rows=rows, groups=self._groups)


def _equal_texts(texts: Iterable[str | None]) -> NDArray[np.int64]:
    """Pair each row with the first row of the same normalised text; shape (M, 2)."""
    first_of: dict[str, int] = {}
    pairs = []
    for row, text in enumerate(texts):
        words = normalised_text(text) if text else ""
        if words and (first := first_of.setdefault(words, row)) != row:
            pairs.append((first, row))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _close_vectors(vectors: NDArray[np.float32], links: _Links, *, min_cosine: float) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of rows (M, 2), block by block, whose cosine is at least `min_cosine`."""
    rows, short = _shortened(vectors)
    least = min_cosine - BOUND_SLACK
    for left, right in _likely_pairs(short, least):
        pairs = links.open_pairs(np.stack([rows[left], rows[right]], axis=1))
        for some in np.split(pairs, range(PAIRS_AT_ONCE, len(pairs), PAIRS_AT_ONCE)):
            still_open = links.open_pairs(some)
            yield still_open[_cosines(vectors, still_open) >= min_cosine]


def _likely_pairs(short: NDArray[np.float32], least: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield both ends of the pairs whose bound is at least `least`, each pair once, some at a time."""
    reach = math.sqrt(max(0.0, 2 - 2 * least))  # |x - y|^2 = 2 - 2 x . y
    for members, candidates in meetings(short, reach):
        for tops, sides in _tiles(len(members), len(candidates)):
            near = np.flatnonzero((short[members[tops]] @ short[candidates[sides]].T).ravel() >= least)
            top, side = np.divmod(near, sides.stop - sides.start)
            is_once = top + tops.start < side + sides.start
            if is_once.any():
                yield members[tops][top[is_once]], candidates[sides][side[is_once]]


def _tiles(num_members: int, num_candidates: int) -> Iterator[tuple[slice, slice]]:
    """Cut the pairs (i, j) with i < j, member and candidate, into tiles that cover them all."""
    height, width = TILE
    for top in range(0, num_members, height):
        for left in range(top, num_candidates, width):
            yield slice(top, min(top + height, num_members)), slice(left, min(left + width, num_candidates))


def _shortened(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows that have a direction, and for each Px and r(x) as one (k + 1) vector."""
    norms = _blockwise(vectors, lambda block: np.linalg.norm(block, axis=1))
    rows = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    basis = _leading_directions(vectors, rows)
    projected = _blockwise(vectors, lambda block: block @ basis)[rows] / norms[rows, None]
    outside = np.sqrt(np.clip(1 - np.einsum("nk,nk->n", projected, projected), 0, None))
    return rows, np.concatenate([projected, outside[:, None]], axis=1)


def _blockwise(
    vectors: NDArray[np.float32], function: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite are left out afterwards
        blocks = [function(np.asarray(vectors[begin : begin + 8192])) for begin in range(0, len(vectors), 8192)]
    return np.concatenate(blocks) if blocks else function(np.asarray(vectors))


def _leading_directions(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return orthonormal columns, shape (D, k): the leading principal directions of a sample."""
    sample = np.asarray(vectors[rows[:: max(1, len(rows) // SAMPLE_CONCEPTS)]], dtype=np.float32)
    if not len(sample):
        return np.zeros((vectors.shape[1], 1), dtype=np.float32)
    sample = sample / np.linalg.norm(sample, axis=1, keepdims=True)
    sample -= sample.mean(axis=0)
    # Subspace iteration: far cheaper than the eigenvectors of a (D, D) matrix, and any basis gives a true bound.
    basis = np.random.default_rng(0).standard_normal((sample.shape[1], NUM_DIRECTIONS), dtype=np.float32)
    for _ in range(2):
        basis = _orthonormal(sample.T @ (sample @ basis))
    projected = sample @ basis
    _, turn = np.linalg.eigh(projected.T @ projected)
    return np.ascontiguousarray(basis @ turn[:, ::-1])


def _orthonormal(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return orthonormal columns of the same span, fewer where the columns depend on each other."""
    precise = columns.astype(np.float64)
    variances, directions = np.linalg.eigh(precise.T @ precise)
    is_kept = variances > 1e-10 * max(variances[-1], np.finfo(np.float32).tiny)
    if not is_kept.any():
        return np.zeros((len(precise), 1), dtype=np.float32)
    return (precise @ (directions[:, is_kept] / np.sqrt(variances[is_kept]))).astype(np.float32)


def _cosines(vectors: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    left, right = (np.asarray(vectors[pairs[:, side]], dtype=np.float64) for side in (0, 1))
    return np.einsum("nd,nd->n", left, right) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
