"""Interpret a mean cosine: contrastive accuracy, effective rank, cluster accuracy.

Shapes: S = targets that are ranked, P = candidates in the pool, C = clusters, N = train concepts, D = vector width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.targets import Contexts, Targets
from lvm_pipeline.source.encoders.encoder import unit_length

NUM_CLUSTERS = 1024
FEWEST_CONCEPTS_IN_A_CLUSTER = 4  # on average; fewer train concepts make fewer clusters
MAX_CLUSTERED_CONCEPTS = 64 * NUM_CLUSTERS
CLUSTERED_DIRECTIONS = 192  # leading directions in which clusters are looked for; their means are of all numbers
MAX_ROTATED_BY = 8192  # concepts whose leading directions are taken
TARGETS_IN_A_BLOCK = 1024
SAMPLES_IN_A_BATCH = 4096

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ContrastiveAccuracy:
    """Share of predictions nearer (by cosine) to their target than to another concept, drawn once for every target."""

    random: float  # the other is any concept of the pool
    same_article: float  # the other is any other concept of the target's article


@dataclass(frozen=True, kw_only=True)
class ClusterScores:
    """Where the cluster of the target ranks among the clusters of train concepts, by cosine of their centroids."""

    num_clusters: int  # C
    accuracy: float  # share of targets whose cluster ranks first
    median_rank: float  # median rank, from 1


def contrastive_accuracy(predictions: Vectors, targets: Targets, *, seed: int) -> ContrastiveAccuracy:
    """Compare each prediction (S, D) with its target and with another concept; a tie counts as wrong."""
    scored, rng = targets.ranked, np.random.default_rng(seed)
    own = cosines(predictions, np.asarray(targets.vectors[scored.target_rows], np.float32))

    def share_nearer(rows: NDArray[np.int64]) -> float:
        return float((own > cosines(predictions, np.asarray(targets.vectors[rows], np.float32))).mean())

    return ContrastiveAccuracy(
        random=share_nearer(_other_rows(scored, targets.pool_rows, rng)),
        same_article=share_nearer(_other_rows_of_article(targets, rng)),
    )


def effective_rank(vectors: Vectors) -> float:
    """Return the exponential of the entropy of the covariance's eigenvalues (Roy and Vetterli, 2007); at most D."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values = np.maximum(np.linalg.eigvalsh(centred.T @ centred), 0)
    if values.sum() <= 0:
        return 1.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def fit_clusters(vectors: Vectors, rows: NDArray[np.int64], *, seed: int) -> Vectors:
    """Return the centroids of train concepts, of unit length, (C, D), by mini-batch k-means in 192 leading directions.

    About 65,536 concepts at most are used, evenly spaced.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    rows = rows[:: -(-len(rows) // MAX_CLUSTERED_CONCEPTS)]
    directions = unit_length(np.asarray(vectors[rows], np.float32))
    basis = _leading_directions(directions)
    num = max(1, min(NUM_CLUSTERS, len(rows) // FEWEST_CONCEPTS_IN_A_CLUSTER))
    # k-means++ would take six times as long and lie 0.004 nearer in cosine
    options = {"init": "random", "n_init": 1, "batch_size": SAMPLES_IN_A_BATCH, "random_state": seed}
    means = MiniBatchKMeans(num, compute_labels=False, **options)  # pyright: ignore[reportArgumentType]  # its n_init may be a number
    leading = directions @ basis
    with threadpool_limits(1, "openmp"):  # its threads mostly wait for each other; other fits use the other cores
        labels = means.fit(leading).predict(leading)
    centroids = np.asarray(means.cluster_centers_, np.float32) @ basis.T  # kept for clusters without a concept
    found, first = np.unique(np.sort(labels), return_index=True)
    centroids[found] = np.add.reduceat(directions[np.argsort(labels, kind="stable")], first)
    return unit_length(centroids)


def _leading_directions(directions: Vectors) -> Vectors:
    """Return the principal directions of unit vectors, leading first, (D, 192) at most."""
    sample = directions[:: -(-len(directions) // MAX_ROTATED_BY)]
    basis = np.linalg.eigh(sample.T @ sample)[1][:, ::-1]
    return np.ascontiguousarray(basis[:, :CLUSTERED_DIRECTIONS])


def nearest_clusters(vectors: Vectors, centroids: Vectors) -> NDArray[np.int64]:
    """Return the index of the nearest centroid (C, D) of each vector, (S,), by cosine."""
    return np.concatenate([np.argmax(block @ centroids.T, axis=1) for block in _blocks(vectors)])


def cluster_scores(predictions: Vectors, wanted: NDArray[np.int64], centroids: Vectors) -> ClusterScores:
    """Rank the clusters by each prediction (S, D); `wanted` is the cluster of each target, (S,)."""
    scores = (unit_length(block) @ centroids.T for block in _blocks(predictions))
    owned = np.array_split(wanted, np.arange(TARGETS_IN_A_BLOCK, len(wanted), TARGETS_IN_A_BLOCK))
    ranks = np.concatenate(
        [
            (block >= block[np.arange(len(block)), own][:, None]).sum(axis=1)
            for block, own in zip(scores, owned, strict=True)
        ]
    )
    return ClusterScores(
        num_clusters=len(centroids), accuracy=float((ranks <= 1).mean()), median_rank=float(np.median(ranks))
    )


def _blocks(values: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(values), TARGETS_IN_A_BLOCK):
        yield values[start : start + TARGETS_IN_A_BLOCK]


def _other_rows(scored: Contexts, pool_rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a concept of the pool for each target, never the target itself (unless it is alone)."""
    own = np.searchsorted(pool_rows, scored.target_rows)
    return _drawn(pool_rows, own, np.zeros_like(own), np.full_like(own, len(pool_rows)), rng)


def _other_rows_of_article(targets: Targets, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw another concept of each ranked target's article that is in the pool."""
    ranked, scored = targets.ranked, targets.scored
    is_last = np.append(scored.articles[1:] != scored.articles[:-1], True)  # an article ends with a target
    last_rows = scored.target_rows[is_last][np.searchsorted(scored.articles[is_last], ranked.articles)]
    own, begin, last = (
        np.searchsorted(targets.pool_rows, rows) for rows in (ranked.target_rows, ranked.article_first_rows, last_rows)
    )
    return _drawn(targets.pool_rows, own, begin, last + 1, rng)


def _drawn(
    pool_rows: NDArray[np.int64],
    own: NDArray[np.int64],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw an index from `begin` to before `end` that is not `own`; return its row."""
    drawn = begin + rng.integers(0, np.maximum(end - begin - 1, 1))
    drawn += (drawn >= own) & (end - begin > 1)
    return pool_rows[drawn]
