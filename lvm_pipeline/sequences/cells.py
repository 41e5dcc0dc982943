"""Limit a search for close pairs of points to nearby cells; no close pair is missed.

Each point belongs to the cell of its nearest centroid (a Voronoi cell). The segment between close points of two cells
crosses the plane midway between the two centroids, so both points are close to that plane. This holds for any
centroids; good ones give small cells and few points near a border.

Shapes: N = points, K = width of a point, C = centroids, n = members of a cell, m = candidates.
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

    A block is the members of a cell (n,) and the candidates to compare them with (m,). The first n candidates are the
    members themselves, the others belong to later cells; each close pair is in one block. Points are not much longer
    than 1. Needs about sqrt(N) / 8 bytes per point beside what is yielded.
    """
    if len(points) <= FEW_POINTS:
        everything = np.arange(len(points))
        yield everything, everything
        return
    centroids = _centroids(points)
    cells, is_candidate = _assign(points, centroids, radius)
    order = np.argsort(cells, kind="stable")
    ends = np.searchsorted(cells[order], np.arange(len(centroids) + 1))
    for cell in range(len(centroids)):
        members = order[ends[cell] : ends[cell + 1]]
        others = np.flatnonzero(np.unpackbits(is_candidate[cell], count=len(points)))
        if len(members):
            yield members, np.concatenate([members, others])


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


def _assign(
    points: NDArray[np.float32], centroids: NDArray[np.float32], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Assign each point to the cell of its nearest centroid, (N,).

    Also return for each cell one bit per point, shape (C, N / 8): whether the point belongs to a later cell and is
    within `radius` of the plane between the two centroids.
    """
    from scipy.spatial.distance import cdist

    precise = centroids.astype(np.float64)
    halves = (0.5 * np.einsum("ck,ck->c", precise, precise)).astype(np.float32)
    margins = (radius * cdist(precise, precise) + SLACK).astype(np.float32)
    numbers = np.arange(len(centroids))
    cells, bits = [], []
    for start in range(0, len(points), BLOCK):
        scores = points[start : start + BLOCK] @ centroids.T - halves  # highest for the nearest centroid
        nearest = scores.argmax(axis=1)
        best = np.take_along_axis(scores, nearest[:, None], axis=1)
        is_near = (scores >= best - margins[nearest]) & (numbers < nearest[:, None])
        cells.append(nearest)
        bits.append(np.packbits(is_near.T, axis=1))
    return np.concatenate(cells), np.concatenate(bits, axis=1)
