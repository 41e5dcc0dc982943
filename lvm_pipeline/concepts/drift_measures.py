"""What each drift check measures between two groups of articles, and how it says what moved.

Shapes: P = groupings, the true one first; A = articles, D = vector width.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts import drift_statistics as statistics
from lvm_pipeline.concepts.drift_articles import ArticleSample
from lvm_pipeline.concepts.facts import CODES, NO_CODE

MAX_NAMED = 3  # in a sentence
MAX_KEPT = 20  # in the details


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Two groups of articles in one pool, the second one behind the first, and what to call them.

    `is_after` holds the groupings, shape (P, A).
    """

    pool: ArticleSample
    is_after: NDArray[np.bool_]
    before_name: str
    after_name: str

    @property
    def is_second(self) -> NDArray[np.bool_]:
        """Which articles are of the second group, shape (A,)."""
        return self.is_after[0]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One check's statistic for every grouping.

    Attributes:
        name: The invariant.
        values: Larger means further apart, shape (P,).
        in_words: What moved most, a clause.
        unit: What one of `values` is in the numbers that are shown.
        details: JSON-able evidence.
        why_not: Why it could not be measured, None where it was.
    """

    name: str
    values: NDArray[np.float64]
    in_words: str
    unit: float = 1.0
    details: dict[str, Any] = field(default_factory=dict)
    why_not: str | None = None


def article_lengths(groups: Groups) -> Measure:
    """How far apart the distributions of article lengths are (Kolmogorov-Smirnov)."""
    before, after = groups.pool.lengths[~groups.is_second], groups.pool.lengths[groups.is_second]
    return Measure(
        name="article_lengths_are_as_before",
        values=statistics.length_distances(groups.pool.lengths, groups.is_after),
        in_words=f"half of {groups.after_name} have at most {np.median(after):g} concepts, "
        f"half of {groups.before_name} at most {np.median(before):g}",
        details={"lengths_before": _quartiles(before), "lengths_after": _quartiles(after)},
    )


def mean_vector(groups: Groups) -> Measure:
    """How far the mean vector moved, in standard deviations of article means, root mean square over dimensions."""
    shifts = statistics.mean_shifts(groups.pool, groups.is_after)
    dimensions = np.argsort(-np.abs(shifts.shift))[:MAX_KEPT]
    pulls = _pulls(groups, shifts.direction)
    return Measure(
        name="mean_vector_is_as_before",
        values=shifts.sizes,
        in_words=f"the mean vector of {groups.after_name} is {shifts.distance:.3f} away from that of "
        f"{groups.before_name}, most of it in {_dimensions(dimensions)}; {_pulling(pulls)}",
        details={
            "distance": shifts.distance,
            "dimensions": [{"dimension": d, "shift_sd": float(shifts.shift[d])} for d in dimensions.tolist()],
            "articles": pulls,
        },
    )


def vector_dimensions(groups: Groups) -> Measure:
    """How far the distribution of the dimension that moved most did (Kolmogorov-Smirnov)."""
    distances = statistics.dimension_distances(groups.pool, groups.is_after)
    order = np.argsort(-distances.of_dimension)[:MAX_KEPT]
    return Measure(
        name="vector_dimensions_are_as_before",
        values=distances.largest,
        in_words=f"the values of {_dimensions(order)} moved most between {groups.before_name} and {groups.after_name}",
        details={
            "dimensions": [{"dimension": d, "ks": float(distances.of_dimension[d])} for d in order.tolist()],
            "median_ks": float(np.median(distances.of_dimension)),
        },
    )


def classifier(groups: Groups) -> Measure:
    """How well a classifier tells concepts of both groups apart, on articles that it did not see (ROC AUC)."""
    found = statistics.separation(groups.pool, groups.is_after)
    seconds = np.flatnonzero(groups.is_second)
    order = seconds[np.argsort(-found.article_ranks[seconds])][:MAX_KEPT].tolist()
    articles = [{"article_id": groups.pool.ids[a], "mean_rank": float(found.article_ranks[a])} for a in order]
    is_told = min(len(seconds), groups.pool.num_articles - len(seconds)) > 1
    return Measure(
        name="vectors_cannot_be_told_apart",
        values=found.aucs,
        in_words=f"a classifier that tells {groups.after_name} from {groups.before_name} finds "
        f"{_listed(each['article_id'] for each in articles)} easiest",
        details={"articles": articles},
        why_not=None if is_told else "one article alone cannot be both learnt from and told apart",
    )


def tmd_mix(groups: Groups) -> Measure:
    """How far the mix of codes of the field that moved most did (population stability index).

    Fields have different numbers of codes, so each index is taken relative to its mean over the groupings.
    """
    shifts = [statistics.code_shifts(groups.pool, field, groups.is_after) for field in range(len(CODES))]
    chances = [max(float(shift.indices.mean()), np.finfo(float).tiny) for shift in shifts]
    relative = np.stack([shift.indices / chance for shift, chance in zip(shifts, chances, strict=True)])
    most = int(relative[:, 0].argmax())
    moved = _moved_codes(shifts[most])
    is_there = any((shift.values != NO_CODE).any() for shift in shifts)
    return Measure(
        name="tmd_mix_is_as_before",
        values=relative.max(axis=0),
        unit=chances[most],
        in_words=f"{CODES[most]} moved most: "
        + ", ".join(
            f"{_code(each['code'])} from {each['before']:.1%} to {each['after']:.1%}" for each in moved[:MAX_NAMED]
        ),
        details={
            "population_stability_indices": {
                name: float(shift.indices[0]) for name, shift in zip(CODES, shifts, strict=True)
            },
            "field": CODES[most],
            "codes": moved,
        },
        why_not=None if is_there else "no concept has a TMD code",
    )


MEASURES = (article_lengths, mean_vector, vector_dimensions, classifier, tmd_mix)


def _pulls(groups: Groups, direction: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return the articles of the second group that moved the mean vector most: their share of its shift."""
    pool = groups.pool
    owners = np.repeat(np.arange(pool.num_articles), pool.num_sampled)
    along = pool.vectors @ direction
    along -= along[~groups.is_second[owners]].mean()
    of_article = np.bincount(owners, along, minlength=pool.num_articles)[groups.is_second]
    shares = of_article / of_article.sum() if of_article.sum() > 0 else np.zeros_like(of_article)
    articles = np.flatnonzero(groups.is_second)
    order = np.argsort(-shares)[:MAX_KEPT]
    return [{"article_id": pool.ids[articles[a]], "share_of_shift": float(shares[a])} for a in order.tolist()]


def _pulling(pulls: list[dict[str, Any]]) -> str:
    share = sum(each["share_of_shift"] for each in pulls[:MAX_NAMED])
    return f"{_listed(each['article_id'] for each in pulls[:MAX_NAMED])} make up {share:.0%} of it"


def _moved_codes(shift: statistics.CodeShifts) -> list[dict[str, Any]]:
    order = np.argsort(-np.abs(shift.after - shift.before))[:MAX_KEPT]
    return [
        {"code": int(shift.values[c]), "before": float(shift.before[c]), "after": float(shift.after[c])}
        for c in order.tolist()
    ]


def _code(code: int) -> str:
    return "no code" if code == NO_CODE else f"code {code}"


def _quartiles(lengths: NDArray[np.int64]) -> dict[str, float]:
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return dict(zip(names, np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))


def _dimensions(dimensions: NDArray[np.int64]) -> str:
    named = ", ".join(map(str, dimensions[:MAX_NAMED].tolist()))
    return f"dimension {named}" if len(dimensions) == 1 else f"the dimensions {named}"


def _listed(names: Iterable[str]) -> str:
    some = list(names)[:MAX_NAMED]
    return ("article " if len(some) == 1 else "the articles ") + ", ".join(some)
