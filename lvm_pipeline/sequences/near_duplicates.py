"""Find articles that share a concept: the same normalised text, or vectors with cosine similarity >= 0.99.

The search is exact. Vectors are first compared in a few dimensions: for an orthonormal basis P of k directions,
with r(x) = sqrt(1 - |Px|^2) the length of a unit vector x outside their span, x . y <= Px . Py + r(x) r(y). That
bound is a dot product of k + 1 numbers instead of D, and only pairs that reach the threshold there are compared on
their full vectors. The k + 1 numbers form a unit vector too, and distances between these are never larger than
between the full vectors, so each row is only compared with rows close to it or to the border of its cell (`cells.py`).

Shapes: N = concepts, D = vector width, A = articles, M = pairs or links.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lvm_pipeline.files import write_json
from lvm_pipeline.sequences.cells import candidate_blocks

MIN_COSINE = 0.99
NUM_DIRECTIONS = 63  # k; with r(x) that makes 64 numbers per concept
SAMPLE_CONCEPTS = 2048  # to find directions of high variance; the bound holds for any
TILE = (1024, 4096)  # rows by rows compared at once: 16 MB of float32
PAIRS_AT_ONCE = 4096
BOUND_SLACK = 1e-4  # covers float32 rounding of the bound

_NOT_WORDS = re.compile(r"[\W_]+")
_ASCII_WORDS = bytes(byte if chr(byte).isalnum() else ord(" ") for byte in range(128)).ljust(256)


@dataclass(frozen=True, kw_only=True)
class NearDuplicateLinks:
    """Pairs of articles that share a near-duplicate concept, each with the two rows found.

    The links are a spanning forest: if three articles repeat the same concept, the third is linked to one of the
    others, not to both. So M < A, and if articles of one group are in different splits, at least one link
    connects two splits.
    """

    articles: NDArray[np.int64]  # the two articles of each link, shape (M, 2), sorted
    rows: NDArray[np.int64]  # the two near-duplicate rows, shape (M, 2), smaller row first
    groups: NDArray[np.int64]  # group of each article, shape (A,): the index of the group's first article


def save_links(path: Path, links: NearDuplicateLinks, *, key: str) -> None:
    """Save links; `key` identifies the concepts they were found in."""
    arrays = {"articles": links.articles, "rows": links.rows, "groups": links.groups}
    write_json(path, {"key": key, **{name: array.tolist() for name, array in arrays.items()}})


def load_links(path: Path, *, key: str) -> NearDuplicateLinks | None:
    """Load saved links; None if the file is missing, damaged or was saved under another key."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["key"] != key:
            return None
        pairs = {name: np.array(saved[name], dtype=np.int64).reshape(-1, 2) for name in ("articles", "rows")}
        return NearDuplicateLinks(**pairs, groups=np.array(saved["groups"], dtype=np.int64))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def normalised_text(text: str) -> str:
    """Reduce a text to its words: NFKC, case folded, runs of space and punctuation replaced by one space.

    Example:
        >>> normalised_text("  The “CAFÉ”,  again… ")
        'the café again'
    """
    if text.isascii():  # most texts are, and this takes a quarter of the time
        return " ".join(text.lower().encode().translate(_ASCII_WORDS).decode().split())
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def find_near_duplicates(
    vectors: NDArray[np.float32],
    texts: Sequence[str | None],
    article_indices: NDArray[np.integer],
    *,
    min_cosine: float = MIN_COSINE,
) -> NearDuplicateLinks:
    """Find articles that share near-duplicate concepts.

    Needs memory for about 100 float32 per concept beside the vectors, which may be a memory map. A concept without
    words is compared by its vector only; one whose vector is zero or not finite by its text only.

    Args:
        vectors: Shape (N, D); of any length, since cosines are compared.
        article_indices: Article of each concept, shape (N,), values from 0.
        min_cosine: Cosine similarity from which two vectors are near-duplicates, in (0, 1].
    """
    article_indices = np.asarray(article_indices, dtype=np.int64)
    forest = _Forest(article_indices)
    forest.add(_equal_texts(texts))
    for pairs in _close_vectors(vectors, forest, min_cosine=min_cosine):
        forest.add(pairs)
    return forest.links()


class _Forest:
    """Links found so far; a pair of rows whose articles are already in one group adds nothing."""

    def __init__(self, article_indices: NDArray[np.int64]):
        self._articles = article_indices
        self._groups = np.arange(int(article_indices.max(initial=-1)) + 1)
        self._rows: list[tuple[int, int]] = []

    def unlinked(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep the pairs (M, 2) of rows that would join two groups."""
        groups = self._groups[self._articles[pairs]]
        return pairs[groups[:, 0] != groups[:, 1]]

    def add(self, pairs: NDArray[np.int64]) -> None:
        for row, other in self.unlinked(pairs).tolist():
            first, second = sorted(self._groups[self._articles[[row, other]]])
            if first != second:
                self._groups[self._groups == second] = first
                self._rows.append((min(row, other), max(row, other)))

    def links(self) -> NearDuplicateLinks:
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


def _close_vectors(vectors: NDArray[np.float32], forest: _Forest, *, min_cosine: float) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of rows (M, 2), block by block, whose cosine similarity is at least `min_cosine`."""
    rows, projected = _project(vectors)
    with threadpool_limits(limits=1, user_api="blas"):  # in small products, threads mostly wait for each other
        for left, right in _pairs_within_bound(projected, min_cosine - BOUND_SLACK):
            pairs = forest.unlinked(np.stack([rows[left], rows[right]], axis=1))
            for some in np.split(pairs, range(PAIRS_AT_ONCE, len(pairs), PAIRS_AT_ONCE)):
                unlinked = forest.unlinked(some)
                yield unlinked[_cosines(vectors, unlinked) >= min_cosine]


def _pairs_within_bound(
    points: NDArray[np.float32], min_bound: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield both ends of the pairs whose bound is at least `min_bound`, each pair once, some at a time."""
    radius = math.sqrt(max(0.0, 2 - 2 * min_bound))  # |x - y|^2 = 2 - 2 x . y
    for first, second in candidate_blocks(points, radius):
        is_one_cell = first is second
        for tops, sides in _tiles(len(first), len(second), is_triangle=is_one_cell):
            near = np.flatnonzero((points[first[tops]] @ points[second[sides]].T).ravel() >= min_bound)
            top, side = np.divmod(near, sides.stop - sides.start)
            if is_one_cell:
                is_upper = top + tops.start < side + sides.start
                top, side = top[is_upper], side[is_upper]
            if len(top):
                yield first[tops][top], second[sides][side]


def _tiles(num_first: int, num_second: int, *, is_triangle: bool) -> Iterator[tuple[slice, slice]]:
    """Cut all pairs (i, j) of two lists, or those of one list with i < j, into tiles that cover them."""
    height, width = TILE
    for top in range(0, num_first, height):
        for left in range(top if is_triangle else 0, num_second, width):
            yield slice(top, min(top + height, num_first)), slice(left, min(left + width, num_second))


def _project(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows with a nonzero finite vector, and Px and r(x) of each, shape (n, k + 1)."""
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
    """Return orthonormal columns, shape (D, k), that span about the leading principal directions of a sample."""
    sample = np.asarray(vectors[rows[:: max(1, len(rows) // SAMPLE_CONCEPTS)]], dtype=np.float32)
    sample = sample / np.linalg.norm(sample, axis=1, keepdims=True)
    sample -= sample.mean(axis=0) if len(sample) else 0
    basis = np.random.default_rng(0).standard_normal((sample.shape[1], NUM_DIRECTIONS), dtype=np.float32)
    for _ in range(2):  # subspace iteration: much cheaper than eigenvectors of a (D, D) matrix
        basis = np.linalg.qr(sample.T @ (sample @ basis)).Q
    return basis


def _cosines(vectors: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    left, right = (np.asarray(vectors[pairs[:, side]], dtype=np.float64) for side in (0, 1))
    return np.einsum("nd,nd->n", left, right) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
