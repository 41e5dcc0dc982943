"""The drift invariants that are tested by permutation, each with a statistic of how far two groups of articles differ.

A statistic is computed for the actual grouping and for permuted ones at once.
The concepts of one article are alike, so whole articles are permuted between the groups. Every statistic is made of
sums over articles, so a permutation costs one row of a matrix product instead of a pass over the concepts.

Shapes: P = groupings, the actual one first; A = articles, n = sampled concepts, D = vector width, C = codes.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.drift.articles import ArticleSample
from lvm_pipeline.concepts.facts import CODES, NO_CODE
from lvm_pipeline.findings import Invariant, Severity

NUM_CUTS = 15  # points of a dimension at which its two distribution functions are compared
CUT_ROWS = 4096  # concepts that the cut points are quantiles of
DIMENSIONS_AT_ONCE = 64
NUM_COMPONENTS = 64
NUM_FOLDS = 5
FOLD_SEED = 0
SHRINKAGE = 0.05
PSI_PRIOR = 0.5  # concepts added to every code in both groups, so that an unused code gives no infinite index
MAX_NAMED = 3  # in a summary
MAX_KEPT = 20  # in the details
QUARTILES = {"min": 0.0, "lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75, "max": 1.0}


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Two groups of articles in one sample, and their groupings, shape (P, A); True marks the second group."""

    pool: ArticleSample
    is_after: NDArray[np.bool_]
    names: tuple[str, str] = ("earlier articles", "new articles")
    shared: dict[str, Any] = field(default_factory=dict, repr=False)  # what several statistics need, found once

    @property
    def is_second(self) -> NDArray[np.bool_]:
        """Articles of the second group, shape (A,)."""
        return self.is_after[0]


@dataclass(frozen=True, kw_only=True)
class Statistic:
    values: NDArray[np.float64]  # for each grouping, larger where the groups differ more, shape (P,)
    summary: str  # what differs most, a clause
    details: Mapping[str, Any]  # JSON-able evidence
    scale: float = 1.0  # multiplies `values` where they are reported
    not_checked: str | None = None  # why the groups cannot be tested; None if they can


@dataclass(frozen=True, kw_only=True)
class DriftInvariant(Invariant):
    """An invariant of two groups of articles; `if_equal` is the value of its statistic for equal groups."""

    statistic: Callable[[Groups], Statistic]
    if_equal: float


def drift_invariant(*, remedy: str, if_equal: float = 0.0) -> Callable[[Callable[[Groups], Statistic]], DriftInvariant]:
    """Declare the decorated function as the statistic of an invariant; its docstring is the meaning."""

    def declare(statistic: Callable[[Groups], Statistic]) -> DriftInvariant:
        return DriftInvariant(
            name=statistic.__name__,
            severity=Severity.WARNING,
            meaning=" ".join((inspect.getdoc(statistic) or "").split()),
            remedy=remedy,
            statistic=statistic,
            if_equal=if_equal,
        )

    return declare


@drift_invariant(
    remedy="Look at the articles in reports/drift.md: other chunking gives other lengths. If that is intended, retrain."
)
def article_lengths_are_as_before(groups: Groups) -> Statistic:
    """New articles are as long as earlier ones (Kolmogorov-Smirnov statistic of the article lengths)."""
    lengths = groups.pool.lengths
    is_at_most = (lengths[:, None] <= np.unique(lengths)).astype(np.float32)
    differences = _differences_of_means(is_at_most, np.ones_like(lengths), groups.is_after)
    before, after = (
        dict(zip(QUARTILES, np.quantile(lengths[members], list(QUARTILES.values())).tolist(), strict=True))
        for members in (~groups.is_second, groups.is_second)
    )
    return Statistic(
        values=np.abs(differences).max(axis=1),
        summary=f"the median length of {groups.names[1]} is {after['median']:g} concepts, "
        f"that of {groups.names[0]} {before['median']:g}",
        details={"lengths_before": before, "lengths_after": after},
    )


@drift_invariant(
    remedy="Look at the articles in reports/drift.md: another subject, language or encoder? If that is intended, "
    "retrain."
)
def mean_vector_is_as_before(groups: Groups) -> Statistic:
    """The mean vector has not shifted.

    The shift of the mean of article means is measured in standard deviations of article means, as a Mahalanobis
    distance with shrunk correlations.
    """
    means = _article_means(groups.pool)
    spread, shifts = means.std(axis=0), _differences_of_means(means, np.ones(len(means)), groups.is_after)  # (P, D)
    all_scaled = np.divide(shifts, spread, out=np.zeros_like(shifts), where=spread > 0)
    shift, scaled = shifts[0], all_scaled[0]
    dimensions = largest(np.abs(scaled), dimension=range(len(spread)), shift_sd=scaled)
    parts = np.maximum((means[groups.is_second] - means[~groups.is_second].mean(axis=0)) @ shift, 0)
    shares = parts / parts.sum() if parts.sum() > 0 else np.zeros_like(parts)
    articles = largest(shares, article_id=_second_ids(groups), share_of_shift=shares)
    share, distance = sum(each["share_of_shift"] for each in articles[:MAX_NAMED]), float(np.linalg.norm(shift))
    return Statistic(
        values=_whitened_lengths(all_scaled, means, spread),
        summary=f"the mean vector of {groups.names[1]} is {distance:.3f} away from that of {groups.names[0]}, "
        f"mostly in {_named('dimension', dimensions)}; {_named('article', articles)} contribute {share:.0%} of it",
        details={"distance": distance, "dimensions": dimensions, "articles": articles},
    )


def _whitened_lengths(
    scaled: NDArray[np.float64], means: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Length of scaled shifts (P, D) under the correlations of all article means, which no grouping changes; (P,)."""
    from scipy import linalg

    centred = np.divide(means - means.mean(axis=0), spread, out=np.zeros_like(means), where=spread > 0)
    correlations = centred.T @ centred / len(means)
    rank = max(1, min(len(means) - 1, len(correlations)))
    correlations += len(correlations) / rank * np.eye(len(correlations))
    return np.sqrt((scaled * linalg.solve(correlations, scaled.T, assume_a="pos", check_finite=False).T).sum(axis=1))


@drift_invariant(
    remedy="Look at the articles in reports/drift.md: another subject, style or kind of text? If that is intended, "
    "retrain."
)
def typicality_is_as_before(groups: Groups) -> Statistic:
    """New articles are as typical as earlier ones: their concepts are as close (cosine) to the mean vector of all."""
    pool, means = groups.pool, _article_means(groups.pool)
    centre = means.mean(axis=0)
    lengths = np.linalg.norm(pool.vectors, axis=1) * np.linalg.norm(centre)
    cosines = np.divide(pool.vectors @ centre, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    typicality = (np.bincount(pool.owners, cosines) / pool.num_sampled)[:, None]
    differences = _differences_of_means(typicality, np.ones(len(means)), groups.is_after)[:, 0]
    before, after = typicality[~groups.is_second, 0], typicality[groups.is_second, 0]
    articles = largest((after - before.mean()) * np.sign(differences[0]), article_id=_second_ids(groups), cosine=after)
    return Statistic(
        values=np.abs(differences),
        summary=f"{groups.names[1]} have cosine {after.mean():.3f} to the mean vector and {groups.names[0]} "
        f"{before.mean():.3f}; {_named('article', articles)} differ most",
        details={"cosine_before": float(before.mean()), "cosine_after": float(after.mean()), "articles": articles},
    )


@drift_invariant(
    remedy="Look at the dimensions in reports/drift.md: a single one suggests another encoder, many suggest other "
    "text. If that is intended, retrain."
)
def vector_dimensions_are_as_before(groups: Groups) -> Statistic:
    """No vector dimension has changed its distribution (largest Kolmogorov-Smirnov statistic of all dimensions)."""
    # Comparing the largest with its permuted values corrects for testing D dimensions.
    firsts = range(0, groups.pool.vectors.shape[1], DIMENSIONS_AT_ONCE)
    distances = np.concatenate([_cut_distances(groups, slice(a, a + DIMENSIONS_AT_ONCE)) for a in firsts], axis=1)
    dimensions = largest(distances[0], dimension=range(distances.shape[1]), ks=distances[0])
    return Statistic(
        values=distances.max(axis=1),
        summary=f"{groups.names[1]} differ from {groups.names[0]} most in {_named('dimension', dimensions)}",
        details={"dimensions": dimensions, "median_ks": float(np.median(distances[0]))},
    )


def _cut_distances(groups: Groups, dimensions: slice) -> NDArray[np.float64]:
    """Largest difference of two empirical distribution functions at cut points, the same for all groupings.

    Shape (P, dimensions).
    """
    values = groups.pool.vectors[:, dimensions]
    some = values[:: max(1, len(values) // CUT_ROWS)]
    cuts = np.quantile(some, np.arange(1, NUM_CUTS + 1) / (NUM_CUTS + 1), axis=0).astype(np.float32)
    below = np.stack([_article_sums(groups.pool, values <= cut) for cut in cuts], axis=1)  # (A, cuts, dimensions)
    differences = _differences_of_means(below.reshape(len(below), -1), groups.pool.num_sampled, groups.is_after)
    return np.abs(differences).reshape(len(differences), NUM_CUTS, -1).max(axis=1)


@drift_invariant(
    remedy="Look at the articles in reports/drift.md: the new ones are of another kind. If that is intended, retrain.",
    if_equal=0.5,
)
def vectors_cannot_be_separated(groups: Groups) -> Statistic:
    """A linear classifier cannot separate new articles from earlier ones.

    Its ROC AUC is measured on articles it was not trained on; 0.5 is chance.
    """
    aucs, article_ranks = _cross_validated(groups)
    ranks = article_ranks[groups.is_second]
    articles = largest(ranks, article_id=_second_ids(groups), mean_rank=ranks)
    is_testable = min(len(ranks), groups.pool.num_articles - len(ranks)) > 1
    return Statistic(
        values=aucs,
        summary=f"a classifier that separates {groups.names[1]} from {groups.names[0]} is most certain of "
        f"{_named('article', articles)}",
        details={"articles": articles},
        not_checked=None if is_testable else "with a single article a classifier cannot be both trained and tested",
    )


def _cross_validated(groups: Groups) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Separate the groups by Fisher's linear discriminant on the leading principal components.

    The folds are the same for every grouping, and the covariance of a fold's training concepts, which does not depend
    on the grouping, gives the same direction as the covariance within the groups. The AUCs of the folds are weighted by
    their pairs of concepts.

    Returns:
        The AUC of each grouping, shape (P,), and the mean rank of each article's concepts in its fold for the actual
        grouping, from 0 (like the first group) to 1 (like the second), shape (A,).
    """
    from scipy.stats import rankdata
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GroupKFold

    pool, is_after, owners = groups.pool, groups.is_after, groups.pool.owners
    num_components = min(NUM_COMPONENTS, *pool.vectors.shape)
    reduced = PCA(num_components, svd_solver="covariance_eigh").fit_transform(pool.vectors)
    folds = GroupKFold(min(NUM_FOLDS, pool.num_articles), shuffle=True, random_state=FOLD_SEED)
    num_won, num_pairs = np.zeros((2, len(is_after)))
    article_ranks = np.full(pool.num_articles, 0.5)
    for training, held_out in folds.split(reduced, groups=owners):
        directions = _discriminants(reduced[training], owners[training], is_after)
        ranks = rankdata(directions @ reduced[held_out].T, axis=1)  # (P, held out)
        labels = is_after[:, owners[held_out]]
        num_after = labels.sum(axis=1)
        won = (ranks * labels).sum(axis=1) - num_after * (num_after + 1) / 2  # Mann-Whitney's U; NaN if untrained
        num_won += np.nan_to_num(won)
        num_pairs += np.where(np.isnan(won), 0, num_after * (len(held_out) - num_after))
        if not np.isnan(won[0]):
            articles, numbers = np.unique(owners[held_out], return_inverse=True)
            article_ranks[articles] = np.bincount(numbers, ranks[0] / len(held_out)) / np.bincount(numbers)
    return np.divide(num_won, num_pairs, out=np.full(len(is_after), 0.5), where=num_pairs > 0), article_ranks


def _discriminants(
    values: NDArray[np.float32], owners: NDArray[np.int64], is_after: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the discriminant of each grouping, shape (P, components); NaN where a group has no concept."""
    from scipy import linalg

    articles, starts, counts = np.unique(owners, return_index=True, return_counts=True)
    shifts = _differences_of_means(np.add.reduceat(values, starts, axis=0), counts, is_after[:, articles])
    covariance = np.cov(values, rowvar=False, dtype=np.float64).reshape(values.shape[1], -1)
    covariance += SHRINKAGE * np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return linalg.solve(covariance, shifts.T, assume_a="pos", check_finite=False).T


@drift_invariant(
    remedy="Look at the codes in reports/drift.md: another mix of articles, or another way to assign codes. If that is "
    "intended, retrain."
)
def tmd_mix_is_as_before(groups: Groups) -> Statistic:
    """TMD codes are as frequent as before (population stability index of the field that changed most)."""
    # Fields have different numbers of codes, so each index is taken relative to its mean over the groupings.
    codes, before, after, indices = zip(*(_code_mix(groups, field) for field in range(len(CODES))), strict=True)
    means = [max(float(index.mean()), np.finfo(float).tiny) for index in indices]
    relative = np.stack([index / mean for index, mean in zip(indices, means, strict=True)])
    most = int(relative[:, 0].argmax())
    change = np.abs(after[most] - before[most])
    changed = largest(change, code=codes[most], before=before[most], after=after[most])
    names = ["no code" if each["code"] == NO_CODE else f"code {each['code']}" for each in changed[:MAX_NAMED]]
    changes = [f"{n} from {c['before']:.1%} to {c['after']:.1%}" for n, c in zip(names, changed, strict=False)]
    return Statistic(
        values=relative.max(axis=0),
        scale=means[most],
        summary=f"{CODES[most]} changed most: {', '.join(changes)}",
        details={
            "population_stability_indices": dict(zip(CODES, (float(index[0]) for index in indices), strict=True)),
            "field": CODES[most],
            "codes": changed,
        },
        not_checked=None if (groups.pool.codes != NO_CODE).any() else "no concept has a TMD code",
    )


def _code_mix(groups: Groups, field: int) -> tuple[NDArray, ...]:
    """Return the codes of a field, the fraction of each in both groups, all (C,), and the stability indices (P,)."""
    pool = groups.pool
    codes, numbers = np.unique(pool.codes[:, field], return_inverse=True)
    counts = np.zeros((pool.num_articles, len(codes)))
    np.add.at(counts, (np.repeat(np.arange(pool.num_articles), pool.lengths), numbers), 1)
    before, after, indices = stability_indices(groups, counts)
    return codes, before[0], after[0], indices


def stability_indices(groups: Groups, counts: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """Return how often each kind occurs in both groups, as fractions (P, C), and the stability indices (P,).

    `counts` (A, C) are the concepts of each article of each kind.
    """
    from scipy.special import rel_entr

    after, before = groups.is_after @ counts + PSI_PRIOR, ~groups.is_after @ counts + PSI_PRIOR
    after /= after.sum(axis=1, keepdims=True)
    before /= before.sum(axis=1, keepdims=True)
    return before, after, (rel_entr(after, before) + rel_entr(before, after)).sum(axis=1)


def _article_sums(pool: ArticleSample, values: NDArray) -> NDArray[np.float32]:
    """Sum the rows of each article, shape (A, ...)."""
    return np.add.reduceat(values, np.cumsum(pool.num_sampled) - pool.num_sampled, axis=0, dtype=np.float32)


def _article_means(pool: ArticleSample) -> NDArray[np.float64]:
    """Mean vector of each article, shape (A, D)."""
    return _article_sums(pool, pool.vectors).astype(np.float64) / pool.num_sampled[:, None]


def _differences_of_means(sums: NDArray, counts: NDArray, is_after: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of the second group minus that of the first, from sums (A, K) over counts (A,).

    Shape (P, K); NaN where a group is empty.
    """
    after = is_after.astype(sums.dtype)
    sums_after, num_after = after @ sums, is_after @ counts
    with np.errstate(invalid="ignore", divide="ignore"):
        means_after = sums_after / num_after[:, None]
        return means_after - (sums.sum(axis=0) - sums_after) / (counts.sum() - num_after)[:, None]


def _second_ids(groups: Groups) -> list[str]:
    return [groups.pool.ids[article] for article in np.flatnonzero(groups.is_second)]


def largest(sizes: NDArray, **columns: Sequence | NDArray) -> list[dict[str, Any]]:
    """Return records of the columns, those of the largest sizes first."""
    order = np.argsort(-sizes)[:MAX_KEPT].tolist()
    values = zip(*(np.asarray(column)[order].tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, record, strict=True)) for record in values]


def _named(what: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Name the first records by their first column."""
    names = [str(next(iter(record.values()))) for record in records[:MAX_NAMED]]
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names)}"
