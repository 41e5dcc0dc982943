"""Which of many points can be near each other, without comparing all pairs.

Points are put into cells, each around a site. A point x of one cell is as far or farther from the plane half-way
between the two sites than from any point behind it, so that points of two cells can be within reach only if x is within
reach of that plane. That holds for any sites; good ones make cells small and leave few points near a border.

Shapes: N = points, K = numbers of a point, S = sites, n = members of a cell, m = candidates.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW_POINTS = 4096  # up to here comparing all pairs is as fast
SAMPLE_FOR_SITE = 40  # points; enough to find good sites
ROUNDS = 8  # of k-means
BLOCK = 2048  # points whose distances to all sites are held at once
SLACK = 1e-5  # float32 rounding of a score, generously


def meetings(points: NDArray[np.float32], reach: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield what has to be compared to find all pairs within `reach`.

    Takes about sqrt(N) / 8 bytes a point beside what is yielded.

    Args:
        points: Shape (N, K), none much longer than 1.
        reach: Distance of two points that count as near.

    Yields:
        The members of a cell (n,) and candidates (m,), as numbers of points. The first n candidates are the members
        themselves, the others are of later cells. Each near pair is in one meeting: once as member and later
        candidate, and, inside a cell, once more the other way round.
    """
    if len(points) <= FEW_POINTS:
        everything = np.arange(len(points))
        yield everything, everything
        return
    sites = _sites(points)
    own, is_candidate = _assigned(points, sites, reach)
    order = np.argsort(own, kind="stable")
    ends = np.searchsorted(own[order], np.arange(len(sites) + 1))
    for site in range(len(sites)):
        members = order[ends[site] : ends[site + 1]]
        others = np.flatnonzero(np.unpackbits(is_candidate[site], count=len(points)))
        if len(members):
            yield members, np.concatenate([members, others])


def _sites(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Choose about sqrt(N) sites, shape (S, K), by a few rounds of k-means on a sample."""
    from sklearn.cluster import KMeans  # here, since the code server, which never searches, would wait for it
    from sklearn.exceptions import ConvergenceWarning

    num_sites = math.isqrt(len(points))
    step = max(1, len(points) // (SAMPLE_FOR_SITE * num_sites))
    once: Any = 1  # scikit-learn's own types allow a string alone
    means = KMeans(num_sites, init="random", n_init=once, max_iter=ROUNDS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the rounds are few, and points may be equal
        return means.fit(points[::step]).cluster_centers_


def _assigned(
    points: NDArray[np.float32], sites: NDArray[np.float32], reach: float
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Put each point into a cell.

    Returns:
        The nearest site of each point, shape (N,), and for each site one bit for each point, shape (S, N / 8): whether
        the point is of a later cell and within reach of the plane between the two sites.
    """
    precise = sites.astype(np.float64)
    halves = (0.5 * np.einsum("sk,sk->s", precise, precise)).astype(np.float32)
    allowance = (reach * _distances(precise) + SLACK).astype(np.float32)
    numbers = np.arange(len(sites))
    own, bits = [], []
    for start in range(0, len(points), BLOCK):
        scores = points[start : start + BLOCK] @ sites.T - halves  # the nearest site has the highest
        nearest = scores.argmax(axis=1)
        best = np.take_along_axis(scores, nearest[:, None], axis=1)
        is_near = scores >= best - allowance[nearest]
        is_near &= numbers < nearest[:, None]
        own.append(nearest)
        bits.append(np.packbits(is_near.T, axis=1))
    return np.concatenate(own), np.concatenate(bits, axis=1)


def _distances(sites: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all distances between sites, shape (S, S)."""
    squares = np.einsum("sk,sk->s", sites, sites)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * sites @ sites.T, 0))
