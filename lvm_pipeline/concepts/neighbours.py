"""Check that the vectors reflect the order of the concepts: in real text, neighbours are closer than distant concepts.

The statistic of an article is the sum of the cosines of neighbours, each minus the mean cosine of all pairs in the
article. In a random order, this sum has mean 0 and a variance in closed form, so no permutations are drawn.

Shapes: n = concepts, A = articles, K = components of a vector.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lvm_pipeline.concepts.facts import ConceptFacts
from lvm_pipeline.concepts.sample import ConceptSample, pieces_of
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity, invariant, listed
from lvm_pipeline.words import counted

MIN_CONCEPTS = 300
MIN_SHUFFLED = 1000  # with fewer concepts, an order that does not show is no fault
MIN_ARTICLES = 10
MIN_LENGTH = 4  # shorter articles have no two pairs of neighbours that share no concept
LEVEL = 0.01  # of a false alarm, over all articles
ORDERED_SCORE = 4.0  # of the whole table
MIN_TOPIC = 0.02  # mean cosine in an article (minus that of the table) from which vectors depend on their article
SHUFFLED = 0.1  # a table looks shuffled if the excess of neighbours is below this fraction of `Closeness.topic`
USUAL_STRENGTH = 0.5  # lowest strength of an ordered article, relative to the median article


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How much closer neighbours are than other pairs of their article."""

    lengths: NDArray[np.int64]  # concepts of each article, shape (A,)
    sums: NDArray[np.float64]  # of neighbours' cosines above the article's mean, shape (A,)
    deviations: NDArray[np.float64]  # standard deviation of the sum if the order were random, shape (A,)
    num_pairs: int  # pairs of neighbours
    topic: float  # mean cosine of the pairs of an article, above that of the table

    def scores(self) -> NDArray[np.float64]:
        """Sum of each article in standard deviations, shape (A,); about normal if the order is random."""
        return np.divide(self.sums, self.deviations, out=np.zeros_like(self.sums), where=self.deviations > 0)

    @property
    def excess(self) -> float:
        """Mean cosine of neighbours, minus that of all pairs of their article."""
        return float(self.sums.sum() / max(1, self.num_pairs))

    @property
    def excess_deviation(self) -> float:
        """Standard deviation of `excess` if all orders were random."""
        return float(np.sqrt(np.square(self.deviations).sum()) / max(1, self.num_pairs))


def closeness_of(sample: ConceptSample) -> Closeness:
    """Measure how close neighbours are in each article of a sample."""
    lengths = np.bincount(sample.articles, minlength=sample.num_articles)
    norms = np.linalg.norm(sample.vectors, axis=1, keepdims=True)
    unit = np.divide(sample.vectors, norms, out=np.zeros_like(sample.vectors), where=norms > 0)
    sums, variances = np.zeros(len(lengths)), np.zeros(len(lengths))
    num_pairs, topic = 0, 0.0
    for start, stop in pieces_of(lengths, min_length=MIN_LENGTH):
        cosines = (unit[start:stop] @ unit[start:stop].T).astype(np.float64)
        total, variance, mean = _neighbours(cosines)
        article = sample.articles[start]
        sums[article] += total
        variances[article] += variance
        num_pairs += len(cosines) - 1
        topic += mean * (len(cosines) - 1)
    return Closeness(
        lengths=lengths,
        sums=sums,
        deviations=np.sqrt(variances),
        num_pairs=num_pairs,
        topic=topic / max(1, num_pairs),
    )


def _neighbours(cosines: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the centred sum over neighbours, its variance over all orders, and the mean of all pairs.

    The variance adds the products of two neighbour pairs: the same pair, two that share a concept, and two that do not.
    """
    num = len(cosines)
    pairs = num * (num - 1)
    mean = (cosines.sum() - np.trace(cosines)) / pairs
    centred = cosines - mean
    np.fill_diagonal(centred, 0)
    of_rows, squares = centred.sum(axis=1), np.square(centred).sum()
    sharing = np.square(of_rows).sum() - squares
    same_mean, sharing_mean = squares / pairs, sharing / (pairs * (num - 2))
    apart_mean = (-2 * squares - 4 * sharing) / (pairs * (num - 2) * (num - 3))
    num_apart = (num - 1) ** 2 - (num - 1) - 2 * (num - 2)
    variance = (num - 1) * same_mean + 2 * (num - 2) * sharing_mean + num_apart * apart_mean
    return float(np.trace(centred, offset=1)), max(0.0, float(variance)), float(mean)


def looks_random(closeness: Closeness) -> NDArray[np.bool_]:
    """Return which articles look shuffled, at level `LEVEL` over all articles, shape (A,)."""
    scores, is_long = closeness.scores(), closeness.lengths >= MIN_LENGTH
    roots = np.sqrt(np.maximum(closeness.lengths, 1))
    usual = np.median((scores / roots)[is_long]) if is_long.any() else 0.0
    limit = USUAL_STRENGTH * usual * roots + ndtri(LEVEL / max(1, is_long.sum()))
    return is_long & (scores < np.minimum(limit, 1))


@invariant(
    severity=Severity.WARNING,
    remedy="Look at the order of the listed articles in the source, and name the columns that hold it: "
    "LVM_ARTICLE_COLUMN and LVM_POSITION_COLUMN.",
)
def neighbours_are_close(facts: ConceptFacts) -> Finding:
    """Neighbours are closer than distant concepts of the same article, as in any text that is read in order.

    It warns of articles whose order looks random, and blocks if that of the whole table does.
    """
    sample = facts.sample
    if len(sample.rows) < MIN_CONCEPTS or sample.num_articles < MIN_ARTICLES:
        why = f"{counted(len(sample.rows), 'concept')} of {counted(sample.num_articles, 'article')} are too few to tell"
        return neighbours_are_close.not_checked(why)
    closeness = closeness_of(sample)
    if not closeness.num_pairs:
        return neighbours_are_close.not_checked(f"no article has at least {MIN_LENGTH} concepts")
    excess, topic = closeness.excess, closeness.topic
    details = {"excess": excess, "topic": topic, "num_articles": sample.num_articles}
    figures = f"neighbours' cosine is {excess:+.3f} above that of all pairs of their article"
    if excess < ORDERED_SCORE * closeness.excess_deviation:
        highest = excess + ORDERED_SCORE * closeness.excess_deviation
        if topic < MIN_TOPIC or highest > SHUFFLED * topic or len(sample.rows) < MIN_SHUFFLED:
            return neighbours_are_close.not_checked(f"the vectors show no order ({figures})", details=details)
        return neighbours_are_close.finding(
            passed=False,
            message=f"the order of all articles looks random: {figures}, which is {topic:+.3f} above that of the table",
            observed=excess,
            severity=Severity.BLOCKING,
            details=details,
        )
    random = np.flatnonzero(looks_random(closeness))
    ids = [facts.article_ids[code] for code in sample.article_codes[random[:MAX_LISTED]].tolist()]
    return neighbours_are_close.from_count(
        len(random),
        f"the order of {len(random):,} of {sample.num_articles:,} articles looks random: {listed(ids, len(random))}",
        otherwise=figures,
        observed=excess,
        allowed=None,
        details={**details, "num_random": len(random), "article_ids": ids},
    )
