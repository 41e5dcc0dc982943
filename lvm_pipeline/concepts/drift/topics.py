"""Two drift statistics on clusters of the concepts: the mix of topics, and the content within topics.

Clusters are fitted on both groups together, so that they are the same for every grouping. Clusters of the earlier
concepts alone fit these better than new ones, which raised false alarms.

Shapes: P = groupings, A = articles, n = sampled concepts, K = components, C = clusters.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.drift.statistics import (
    MAX_NAMED,
    Groups,
    Statistic,
    drift_invariant,
    largest,
    stability_indices,
)

NUM_TOPICS = 16
CONCEPTS_OF_TOPIC = 20  # on average; fewer concepts make fewer topics
NUM_COMPONENTS = 32
SEED = 0


class _Topics(NamedTuple):
    counts: NDArray[np.float64]  # concepts of each article in each topic, (A, C)
    sums: NDArray[np.float32]  # of their components, from the topic's centre, in standard deviations, (A, C, K)
    typical: list[str]  # article with the largest part of its concepts in the topic, C of them


def _topics_of(groups: Groups) -> _Topics:
    """Return the topics of two groups, found once for both statistics."""
    if "topics" not in groups.shared:
        groups.shared["topics"] = _found_topics(groups)
    return groups.shared["topics"]


def _found_topics(groups: Groups) -> _Topics:
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    pool, owners = groups.pool, groups.pool.owners
    num_components = min(NUM_COMPONENTS, *pool.vectors.shape)
    values = PCA(num_components, svd_solver="covariance_eigh").fit_transform(pool.vectors)
    num = int(np.clip(len(values) // CONCEPTS_OF_TOPIC, 1, NUM_TOPICS))
    clusters = MiniBatchKMeans(num, random_state=SEED, n_init=1, batch_size=2048)  # pyright: ignore[reportArgumentType]
    codes = np.asarray(clusters.fit_predict(values), np.int64)
    within = values - np.asarray(clusters.cluster_centers_)[codes]
    within /= np.maximum(within.std(axis=0), 1e-9)
    cell = owners * num + codes
    counts = np.bincount(cell, minlength=pool.num_articles * num).reshape(-1, num).astype(np.float64)
    sums = np.zeros((pool.num_articles * num, num_components), np.float32)
    np.add.at(sums, cell, within.astype(np.float32))
    shares = counts / np.maximum(pool.num_sampled[:, None], 1)
    typical = [pool.ids[article] for article in shares.argmax(axis=0)]
    return _Topics(counts, sums.reshape(-1, num, num_components), typical)


@drift_invariant(
    remedy="Look at the topics in reports/drift.md, each named by its most typical article: more of one subject, less "
    "of another. If that is intended, retrain."
)
def topic_mix_is_as_before(groups: Groups) -> Statistic:
    """Topics are as frequent as before (population stability index of clusters of all concepts)."""
    counts, _, typical = _topics_of(groups)
    before, after, indices = stability_indices(groups, counts)
    topics = largest(np.abs(after[0] - before[0]), typical_article=typical, before=before[0], after=after[0])
    changes = [f"that of article {t['typical_article']} from {t['before']:.1%} to {t['after']:.1%}" for t in topics]
    return Statistic(
        values=indices,
        summary=f"the mix of topics changed most in {', '.join(changes[:MAX_NAMED])}",
        details={"topics": topics},
    )


@drift_invariant(
    remedy="Look at the topics in reports/drift.md, each named by its most typical article: the same subjects in other "
    "words, or other vectors for the same words? If that is intended, retrain."
)
def content_within_topics_is_as_before(groups: Groups) -> Statistic:
    """Concepts of one topic are as before: the mean within clusters of all concepts has not shifted.

    The shift is measured in standard deviations within topics (root mean square over topics and components).
    """
    counts, sums, typical = _topics_of(groups)
    is_after = groups.is_after.astype(np.float32)
    num_after = is_after.astype(np.float64) @ counts  # (P, C)
    num_before = counts.sum(axis=0) - num_after
    sums_after = (is_after @ sums.reshape(len(sums), -1)).reshape(len(is_after), *sums.shape[1:])
    sums_before = sums.sum(axis=0) - sums_after
    shifts = sums_after / np.maximum(num_after, 1)[..., None] - sums_before / np.maximum(num_before, 1)[..., None]
    squares = np.square(shifts).mean(axis=2) * ((num_after > 0) & (num_before > 0))
    weights = num_after * num_before / np.maximum(num_after + num_before, 1)
    values = np.sqrt((squares * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9))
    topics = largest(squares[0] * weights[0], typical_article=typical, shift_sd=np.sqrt(squares[0]))
    named = ", ".join(f"that of article {topic['typical_article']}" for topic in topics[:MAX_NAMED])
    return Statistic(
        values=values,
        summary=f"the content within topics changed most in {named}",
        details={"topics": topics},
    )
