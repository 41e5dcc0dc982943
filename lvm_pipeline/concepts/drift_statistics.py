"""How far two groups of articles lie apart, for the true grouping and for many permuted ones at once.

Concepts of one article are alike, so what could have come about by chance is learnt by permuting whole articles between
the groups. Every statistic is made of sums over articles, or of a discriminant that needs no more than those, so that a
permuted grouping costs a row of a matrix product and not a pass over the concepts.

Shapes: P = groupings, the true one first; A = articles, n = sampled concepts, D = vector width, Q = cut points.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special, stats

from lvm_pipeline.concepts.drift_articles import ArticleSample

NUM_CUTS = 15  # points of a dimension at which its two distribution functions are compared
CUT_ROWS = 4096  # concepts that choose them
DIMENSIONS_AT_ONCE = 64
NUM_COMPONENTS = 64
NUM_FOLDS = 5
SHRINKAGE = 0.05
PSI_PRIOR = 0.5  # concepts that every code is given in both groups, so that an empty one is no infinite change
FOLD_SEED = 0


def groupings(num_before: int, num_after: int, *, num_permutations: int, seed: int) -> NDArray[np.bool_]:
    """Return the true grouping and permuted ones, shape (P, A); True marks the second group."""
    true = np.repeat([False, True], [num_before, num_after])
    rng = np.random.default_rng(seed)
    return np.stack([true, *(rng.permutation(true) for _ in range(num_permutations))])


def length_distances(lengths: NDArray[np.int64], is_after: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Kolmogorov-Smirnov statistic of the article lengths (A,) for each grouping, shape (P,)."""
    is_at_most = (lengths[:, None] <= np.unique(lengths)).astype(np.float32)
    return np.abs(_difference_of_means(is_at_most, np.ones_like(lengths), is_after)).max(axis=1)


@dataclass(frozen=True, kw_only=True)
class MeanShifts:
    """How far the mean vector moved.

    Attributes:
        sizes: Root mean square over the dimensions of the shift, in standard deviations of article means, shape (P,).
        shift: The true shift, in the same unit, shape (D,); 0 where articles do not differ.
        direction: The true shift in the vectors' own unit, shape (D,).
    """

    sizes: NDArray[np.float64]
    shift: NDArray[np.float64]
    direction: NDArray[np.float64]

    @property
    def distance(self) -> float:
        """Length of the true shift in the vectors' own unit."""
        return float(np.linalg.norm(self.direction))


def mean_shifts(pool: ArticleSample, is_after: NDArray[np.bool_]) -> MeanShifts:
    """Compare the mean vectors of both groups for each grouping."""
    sums = _article_sums(pool, pool.vectors).astype(np.float64)
    shifts = _difference_of_means(sums, pool.num_sampled, is_after)
    spread = (sums / pool.num_sampled[:, None]).std(axis=0)
    scaled = np.divide(shifts, spread, out=np.zeros_like(shifts), where=spread > 0)
    return MeanShifts(sizes=np.sqrt(np.square(scaled).mean(axis=1)), shift=scaled[0], direction=shifts[0])


@dataclass(frozen=True, kw_only=True)
class DimensionDistances:
    """How far the distribution of each dimension moved.

    Attributes:
        largest: Largest Kolmogorov-Smirnov statistic of all dimensions for each grouping, shape (P,): comparing this
            with its permuted values is the correction for looking at D dimensions.
        of_dimension: The statistic of each dimension for the true grouping, shape (D,).
    """

    largest: NDArray[np.float64]
    of_dimension: NDArray[np.float64]


def dimension_distances(pool: ArticleSample, is_after: NDArray[np.bool_]) -> DimensionDistances:
    """Compare the distributions of every dimension, at the same cut points for every grouping."""
    largest = np.zeros(len(is_after))
    of_dimension = []
    for values in _dimension_blocks(pool.vectors):
        distances = _cut_distances(pool, values, is_after)
        largest = np.maximum(largest, distances.max(axis=1))
        of_dimension.append(distances[0])
    return DimensionDistances(largest=largest, of_dimension=np.concatenate(of_dimension))


def _dimension_blocks(vectors: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for first in range(0, vectors.shape[1], DIMENSIONS_AT_ONCE):
        yield vectors[:, first : first + DIMENSIONS_AT_ONCE]


def _cut_distances(
    pool: ArticleSample, values: NDArray[np.float32], is_after: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Largest difference of two empirical distribution functions at the cut points, shape (P, dimensions)."""
    some = values[:: max(1, len(values) // CUT_ROWS)]
    cuts = np.quantile(some, np.arange(1, NUM_CUTS + 1) / (NUM_CUTS + 1), axis=0).astype(np.float32)
    below = np.stack([_article_sums(pool, values <= cut) for cut in cuts], axis=1)  # (A, Q, dimensions)
    differences = _difference_of_means(below.reshape(len(below), -1), pool.num_sampled, is_after)
    return np.abs(differences).reshape(len(is_after), NUM_CUTS, -1).max(axis=1)


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well a classifier that never saw an article tells which group it is of.

    Attributes:
        aucs: Area under the ROC curve over held-out concepts for each grouping, shape (P,); 0.5 where no fold could be
            scored, as with a single article in a group.
        article_ranks: Mean rank of each article's concepts among those of its fold for the true grouping, from 0
            (as before) to 1 (as the second group), shape (A,).
    """

    aucs: NDArray[np.float64]
    article_ranks: NDArray[np.float64]


def separation(pool: ArticleSample, is_after: NDArray[np.bool_]) -> Separation:
    """Hold out every fifth of the articles in turn and tell its groups apart by Fisher's linear discriminant.

    The vectors are reduced to their leading principal components first. The folds are the same for every grouping, and
    the covariance of a fold's training concepts, which does not depend on the grouping, leads to the same direction as
    the covariance within the groups. The areas of the folds are weighed by their pairs of concepts.
    """
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GroupKFold

    owners = np.repeat(np.arange(pool.num_articles), pool.num_sampled)
    num_components = min(NUM_COMPONENTS, *pool.vectors.shape)
    reduced = PCA(num_components, svd_solver="covariance_eigh").fit_transform(pool.vectors)
    folds = GroupKFold(min(NUM_FOLDS, pool.num_articles), shuffle=True, random_state=FOLD_SEED)
    num_won = np.zeros(len(is_after))
    num_pairs = np.zeros(len(is_after))
    article_ranks = np.full(pool.num_articles, 0.5)
    for training, held_out in folds.split(reduced, groups=owners):
        directions = _discriminants(reduced[training], owners[training], is_after)
        ranks = stats.rankdata(directions @ reduced[held_out].T, axis=1)  # (P, held out)
        won, pairs = _won_pairs(ranks, is_after[:, owners[held_out]])
        is_known = np.isfinite(directions[:, 0])
        num_won += np.where(is_known, won, 0)
        num_pairs += np.where(is_known, pairs, 0)
        if is_known[0]:
            articles, places = np.unique(owners[held_out], return_inverse=True)
            article_ranks[articles] = np.bincount(places, ranks[0] / len(held_out)) / np.bincount(places)
    aucs = np.divide(num_won, num_pairs, out=np.full(len(is_after), 0.5), where=num_pairs > 0)
    return Separation(aucs=aucs, article_ranks=article_ranks)


def _discriminants(
    values: NDArray[np.float32], owners: NDArray[np.int64], is_after: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the discriminant of each grouping, shape (P, components); NaN where a group has no concept."""
    articles, starts, counts = np.unique(owners, return_index=True, return_counts=True)
    shifts = _difference_of_means(np.add.reduceat(values, starts, axis=0), counts, is_after[:, articles])
    covariance = np.cov(values, rowvar=False, dtype=np.float64).reshape(values.shape[1], -1)
    covariance += SHRINKAGE * np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return linalg.solve(covariance, shifts.T, assume_a="pos", check_finite=False).T


def _won_pairs(
    ranks: NDArray[np.float64], is_after: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mann-Whitney's U, and how many pairs of a concept of each group there are, each of shape (P,)."""
    num_after = is_after.sum(axis=1)
    won = (ranks * is_after).sum(axis=1) - num_after * (num_after + 1) / 2
    return won, num_after * (is_after.shape[1] - num_after).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class CodeShifts:
    """How far the mix of one field's codes moved.

    Attributes:
        values: The codes that occur, shape (C,).
        before: Share of each in the first group, shape (C,).
        after: Share in the second, shape (C,).
        indices: Population stability index for each grouping, shape (P,).
    """

    values: NDArray[np.int16]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    indices: NDArray[np.float64]


def code_shifts(pool: ArticleSample, field: int, is_after: NDArray[np.bool_]) -> CodeShifts:
    """Compare the codes of one field (a column of `codes`), all concepts counted."""
    owners = np.repeat(np.arange(pool.num_articles), pool.lengths)
    values, codes = np.unique(pool.codes[:, field], return_inverse=True)
    counts = np.zeros((pool.num_articles, len(values)))
    np.add.at(counts, (owners, codes), 1)
    after = is_after @ counts + PSI_PRIOR
    before = ~is_after @ counts + PSI_PRIOR
    after /= after.sum(axis=1, keepdims=True)
    before /= before.sum(axis=1, keepdims=True)
    indices = (special.rel_entr(after, before) + special.rel_entr(before, after)).sum(axis=1)
    return CodeShifts(values=values, before=before[0], after=after[0], indices=indices)


def _article_sums(pool: ArticleSample, values: NDArray) -> NDArray[np.float32]:
    """Sum the rows of each article, shape (A, ...)."""
    first_rows = np.cumsum(pool.num_sampled) - pool.num_sampled
    return np.add.reduceat(values, first_rows, axis=0, dtype=np.float32)


def _difference_of_means(sums: NDArray, counts: NDArray[np.int64], is_after: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of the second group less that of the first for each grouping, from sums (A, K) over counts (A,).

    Shape (P, K); NaN where a group is empty.
    """
    after = is_after.astype(sums.dtype)
    sums_after, num_after = after @ sums, is_after @ counts
    with np.errstate(invalid="ignore", divide="ignore"):
        means_after = sums_after / num_after[:, None]
        return means_after - (sums.sum(axis=0) - sums_after) / (counts.sum() - num_after)[:, None]
