"""Limit a search for close pairs of points to nearby cells; no close pair is missed.

Each point belongs to the cell of its nearest centroid (a Voronoi cell). The segment between close points of two cells
crosses the plane midway between the two centroids, so both points are close to that plane: of two cells, only the
points close to the plane between them are compared. This holds for any centroids; good ones give small cells and few
points near a border.

Shapes: N = points, K = width of a point, C = centroids, n and m = points of a block.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW_POINTS = 4096  # up to here, comparing all pairs is as fast
SAMPLE_PER_CENTROID = 40  # points for k-means
MAX_ITERATIONS = 8  # of k-means
BLOCK = 2048  # points whose distances to all centroids are computed at once
SLACK = 1e-5  # covers float32 rounding of a score


def candidate_blocks(
    points: NDArray[np.float32], radius: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the blocks of pairs that must be compared to find all pairs of points (N, K) within `radius`.

    A block is the points of one cell, the same array (n,) twice, or points of two cells, (n,) and (m,). Each close pair
    is in one block. Points are not much longer than 1. Needs about sqrt(N) / 8 bytes per point beside what is yielded,
    and the points once more while it starts.
    """
    if len(points) <= FEW_POINTS:
        everything = np.arange(len(points))
        yield everything, everything
        return
    centroids = _centroids(points)
    cells = _nearest(points, centroids)
    order = np.argsort(cells, kind="stable")  # the points of a cell one after the other
    ends = np.searchsorted(cells[order], np.arange(len(centroids) + 1))
    near = _near_planes(points, order, cells, centroids, radius)
    for cell in range(len(centroids)):
        members = order[ends[cell] : ends[cell + 1]]
        if len(members):
            yield members, members
            yield from _border_blocks(cell, order, ends, near)


def _border_blocks(
    cell: int, order: NDArray[np.int64], ends: NDArray[np.int64], near: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the points of a cell close to the plane between it and a later cell, and those of the later cell."""
    start, end = ends[cell : cell + 2].tolist()
    others = end + np.flatnonzero(_bits(near[cell], end, len(order)))
    cuts = np.searchsorted(others, ends[cell + 1 :])
    own = _bits(near[cell + 1 :], start, end).view(bool)
    for later in np.flatnonzero((np.diff(cuts) > 0) & own.any(axis=1)):
        yield order[start:end][own[later]], order[others[cuts[later] : cuts[later + 1]]]


def _bits(packed: NDArray[np.uint8], start: int, end: int) -> NDArray[np.uint8]:
    """Return the bits from `start` to before `end` of the last axis, one number 0 or 1 each."""
    first = start // 8
    return np.unpackbits(packed[..., first : -(-end // 8)], axis=-1)[..., start - 8 * first : end - 8 * first]


def _centroids(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return about sqrt(N) centroids, shape (C, K), by a few iterations of k-means on a sample."""
    from sklearn.cluster import KMeans  # slow to import, and the code server never needs it
    from sklearn.exceptions import ConvergenceWarning

    num_centroids = math.isqrt(len(points))
    step = max(1, len(points) // (SAMPLE_PER_CENTROID * num_centroids))
    once: Any = 1  # scikit-learn's type hints allow only a string
    means = KMeans(num_centroids, init="random", n_init=once, max_iter=MAX_ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few iterations, and points may be equal
        return means.fit(points[::step]).cluster_centers_


def _nearest(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the cell of each point, (N,): the index of its nearest centroid."""
    blocks = [points[start : start + BLOCK] for start in range(0, len(points), BLOCK)]
    return np.concatenate([_scores(block, centroids).argmax(axis=1) for block in blocks])


def _near_planes(
    points: NDArray[np.float32],
    order: NDArray[np.int64],
    cells: NDArray[np.int64],
    centroids: NDArray[np.float32],
    radius: float,
) -> NDArray[np.uint8]:
    """Return for each cell one bit per point, shape (C, N / 8), the points in the given order.

    The bit says whether the point is within `radius` of the plane between that cell's centroid and its own.
    """
    from scipy.spatial.distance import cdist

    precise = centroids.astype(np.float64)
    margins = (radius * cdist(precise, precise) + SLACK).astype(np.float32)
    bits = []
    for start in range(0, len(points), BLOCK):
        block = order[start : start + BLOCK]
        scores, own = _scores(points[block], centroids), cells[block]
        best = np.take_along_axis(scores, own[:, None], axis=1)
        bits.append(np.packbits((scores >= best - margins[own]).T, axis=1))
    return np.concatenate(bits, axis=1)


def _scores(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores, (n, C), highest for the nearest centroid.

    The difference of two scores of a point is its distance to the plane between the two centroids times their distance.
    """
    return points @ centroids.T - 0.5 * np.einsum("ck,ck->c", centroids, centroids)
