"""Measure whether the vectors of a concept table are those of their texts, without an encoder.

A map from texts to vectors is fitted on one half of the articles and used on the other (`text_maps`). In this order:

1. Another space: vectors that point where random directions do (`other_space`), and whose texts do not predict them.
2. Two spaces: two maps are fitted to a part of the table, each to the rows that it predicts better than the other. In
   one space, either map also predicts the rows of the other; with two encoders it does not.
3. A shift: predictions fit the vectors of later or earlier concepts better than their own.
4. Articles or rows that do not fit: the map is fitted again without the articles that fit badly, so that they cannot
   spoil it, and each article is compared with the score expected for its length.

Shapes: n = concepts, A = articles, F = features, K = components of a vector.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from lvm_pipeline.concepts.sample import ConceptSample
from lvm_pipeline.concepts.text_features import text_features
from lvm_pipeline.concepts.text_maps import (
    MIN_LENGTH,
    OFFSETS,
    ArticleFits,
    article_fits,
    fit_map,
    predicted_by_other_half,
)
from lvm_pipeline.words import counted

MIN_CONCEPTS = 200  # fewer tell nothing
MIN_UNRELATED = 1000  # concepts from which texts that say nothing of their vectors, all or single ones, are a fault
MIN_ARTICLES = 6
UNRELATED_SCORE = 6.0
SPACE_CONCEPTS = 5_000  # concepts that the search for two spaces looks at
SPACE_ROUNDS = 8
FIRST_ROUNDS = 3  # after which the best start goes on alone
SPACE_AXES = 2  # along which the search starts, beside the concepts that do not fit their texts
MISFIT_SHARE = 0.2  # of the concepts, for that start
MAX_ERROR_BY_ARTICLE = 1.05  # relative to that of single concepts
MIN_SPACE = 0.03  # smallest share of a second space that the search can find
MIN_SPACE_EFFECT = 0.1
MIN_SPACE_GAIN = 1.03  # effect of two maps relative to that of one
NUM_SHUFFLES = 9  # of the texts of fewer than MIN_UNRELATED concepts
SHUFFLED_GAIN = 1.5  # effect of two maps relative to that of texts in a random order
SPACE_TOLERANCE = 0.005  # share of rows that may still change between the parts
OTHER_SPACE = 0.15  # highest effect of the other map, relative to the right one
MIN_OTHER = 5  # concepts of another space that are found
MAX_OTHER = 0.35  # largest share; if there are more, what is "other" cannot be inferred from the directions
MIN_OWN_COSINE = 0.1  # of predictions and vectors, both centred, in the concepts that are not of another space
LOW_SCORE = 2.0
LOW_STRENGTH = 0.35  # relative to the median article
SURE_SCORE = 4.0  # that a sound article of this length reaches at half the usual strength
WHOLE_ARTICLE = 0.8  # share of bad concepts from which an article is named
MIN_COVERAGE = 0.5  # relative to the median article
MAX_BAD_ROWS = 0.1
SHIFTED_SCORE = 4.0
SHIFTED_GAIN = 1.25
NUM_LOOKED_UP = 400  # bad concepts whose best vector is looked for
MIN_SAME_OFFSET = 0.2  # of these, with one distance to it
TRIMMED_STRENGTH = 0.5  # an article below this is left out of the next fit
NUM_REFITS = 3


class Fault(StrEnum):
    """What is wrong with texts and vectors."""

    NONE = "none"
    UNRELATED = "unrelated"
    TWO_SPACES = "two_spaces"
    OTHER_SPACE = "other_space"
    SHIFTED = "shifted"
    ARTICLES = "articles"
    ROWS = "rows"


@dataclass(frozen=True, kw_only=True)
class TextMatch:
    """What the comparison found."""

    fault: Fault = Fault.NONE
    effect: float = 0.0  # mean difference of cosines, a text with its own vector minus with the others of its article
    is_bad: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # concepts that do not fit, (n,)
    offset: int = 0  # rows from a text to the vector that fits it, if most bad concepts have the same
    has_own_map: bool = False  # whether the bad concepts fit a map of their own: they are of another space
    num_unknown: int = 0  # articles that are not judged, since no other article has their words
    why_not: str = ""  # why no conclusion is possible; empty if one is


def match_texts(sample: ConceptSample) -> TextMatch:
    """Compare the texts of some whole articles with their vectors."""
    if len(sample.rows) < MIN_CONCEPTS or sample.num_articles < MIN_ARTICLES:
        return TextMatch(
            why_not=f"{counted(len(sample.rows), 'concept')} of {counted(sample.num_articles, 'article')} "
            "are too few to tell"
        )
    with threadpool_limits(limits=1, user_api="blas"):  # threads only wait for each other here
        return _matched(sample)


def _matched(sample: ConceptSample) -> TextMatch:
    features = text_features(sample.texts)
    if (other := _other_space(features, sample)) is not None:
        return other
    if (two := _two_spaces(features, sample)) is not None:
        return two
    fits, _ = _cross_fitted(features, sample, np.ones(sample.num_articles, np.bool_))
    if (shifted := _shifted(fits)) is not None:
        return shifted
    if fits.total_score() < UNRELATED_SCORE:
        return _unrelated(fits)
    return _misfits(features, sample, fits)


def _unrelated(fits: ArticleFits) -> TextMatch:
    num_measured = int(fits.lengths[fits.lengths >= MIN_LENGTH].sum())
    if num_measured < MIN_UNRELATED:
        why = (
            f"the texts do not predict the vectors, but {num_measured:,} concepts in articles of at least "
            f"{MIN_LENGTH} concepts are too few to judge"
        )
        return TextMatch(effect=fits.effect(), why_not=why)
    return TextMatch(fault=Fault.UNRELATED, effect=fits.effect(), is_bad=np.ones(len(fits.of_rows), np.bool_))


def _shifted(fits: ArticleFits) -> TextMatch | None:
    """Return a fault if the vectors of the table are those of texts a few rows away."""
    effects = {offset: fits.effect(offset) for offset in OFFSETS}
    best = max(effects, key=lambda offset: effects[offset])
    if effects[best] < SHIFTED_GAIN * max(effects[0], 0) or fits.total_score(best) < UNRELATED_SCORE:
        return None
    is_bad = np.ones(len(fits.of_rows), np.bool_)
    return TextMatch(fault=Fault.SHIFTED, effect=effects[0], is_bad=is_bad, offset=best) if best else None


def _halves(num_articles: int) -> NDArray[np.bool_]:
    return np.random.default_rng(0).permutation(num_articles) % 2 == 0


def _cross_fitted(
    features: sparse.csr_matrix, sample: ConceptSample, used: NDArray[np.bool_]
) -> tuple[ArticleFits, NDArray[np.float64]]:
    """Fit maps on the `used` articles (A,) of either half, compare the other half; return coverages (A,), too."""
    is_first, is_used = _halves(sample.num_articles)[sample.articles], used[sample.articles]
    predictions, coverages = predicted_by_other_half(features, sample.vectors, (is_first, ~is_first), is_used)
    sums = np.bincount(sample.articles, weights=coverages)
    fits = article_fits(predictions, sample.vectors, sample.articles)
    return fits, sums / np.maximum(fits.lengths, 1)


# Articles and rows that do not fit.


def _misfits(features: sparse.csr_matrix, sample: ConceptSample, fits: ArticleFits) -> TextMatch:
    """Find articles that do not fit, with maps fitted without them; else look at single rows."""
    low = _is_low(fits, np.inf, TRIMMED_STRENGTH)
    coverages = np.ones(len(low))
    for _ in range(NUM_REFITS if low.any() else 0):
        before = low
        fits, coverages = _cross_fitted(features, sample, ~low)
        low = _is_low(fits, np.inf, TRIMMED_STRENGTH)
        if (low == before).all():
            break
    is_known = coverages >= MIN_COVERAGE * np.median(coverages)
    bad = _is_low(fits, LOW_SCORE, LOW_STRENGTH) & is_known
    effect, num_unknown = fits.effect(), int(np.count_nonzero(~is_known))
    bad |= _is_shifted(fits)
    is_bad = (fits.of_rows < 0) & is_known[sample.articles]
    if len(is_bad) >= MIN_UNRELATED and is_bad.mean() > MAX_BAD_ROWS > bad.mean():
        return TextMatch(fault=Fault.ROWS, effect=effect, is_bad=is_bad, num_unknown=num_unknown)
    expected = np.median(fits.strengths()[~bad]) * np.sqrt(np.maximum(fits.lengths - 1, 0))
    if (bad & (expected / 2 >= SURE_SCORE)).any() or bad.sum() >= max(3, 0.02 * len(bad)):
        return _explained(features, sample, bad[sample.articles], effect=effect, num_unknown=num_unknown)
    return TextMatch(effect=effect, num_unknown=num_unknown)


def _is_shifted(fits: ArticleFits) -> NDArray[np.bool_]:
    """Return which articles fit vectors a few rows away better than their own, shape (A,)."""
    best = np.max([fits.scores(offset) for offset in OFFSETS if offset], axis=0)
    return (best >= SHIFTED_SCORE) & (best >= fits.scores() + SHIFTED_SCORE)


def _explained(
    features: sparse.csr_matrix, sample: ConceptSample, is_bad: NDArray[np.bool_], *, effect: float, num_unknown: int
) -> TextMatch:
    """Say what is wrong with articles that do not fit: a shift, another space, or neither."""
    some = np.flatnonzero(is_bad)[:: max(1, int(is_bad.sum()) // NUM_LOOKED_UP)]
    predictions = fit_map(features[~is_bad], sample.vectors[~is_bad]).predict(features[some])
    lengths = np.linalg.norm(sample.vectors, axis=1)
    cosines = predictions @ (sample.vectors / np.where(lengths > 0, lengths, 1)[:, None]).T
    offsets, counts = np.unique(sample.rows[cosines.argmax(axis=1)] - sample.rows[some], return_counts=True)
    offset = int(offsets[counts.argmax()]) if counts.max() >= max(3, MIN_SAME_OFFSET * len(some)) else 0
    _, codes = np.unique(sample.articles[is_bad], return_inverse=True)
    has_own_map = False
    if not offset and codes[-1] + 1 >= MIN_ARTICLES:
        halves = _halves(codes[-1] + 1)[codes]
        part = _Part(features[is_bad], sample.vectors[is_bad], codes, (halves, ~halves))
        everything = np.ones(len(codes), np.bool_)
        fits = article_fits(part.cross_fitted(everything)[0], part.vectors, codes)
        has_own_map = fits.total_score() >= UNRELATED_SCORE and fits.effect() >= MIN_SPACE_EFFECT
    return TextMatch(
        fault=Fault.ARTICLES,
        effect=effect,
        is_bad=is_bad,
        offset=offset,
        has_own_map=has_own_map,
        num_unknown=num_unknown,
    )


def _is_low(fits: ArticleFits, score: float, strength: float) -> NDArray[np.bool_]:
    """Return which articles fit no better than chance and much worse than the median article, shape (A,)."""
    is_measured, strengths = fits.lengths > 2, fits.strengths()
    usual = np.median(strengths[is_measured]) if is_measured.any() else 0.0
    return is_measured & (fits.scores() < score) & (strengths < strength * usual)


# Another space.


def _other_space(features: sparse.csr_matrix, sample: ConceptSample) -> TextMatch | None:
    """Return a fault if some vectors point where random directions do, and known texts do not predict them."""
    directions = sample.directions
    if directions is None or not directions.is_apart(sample.scores):
        return None
    is_other = sample.scores < directions.limit
    if not MIN_OTHER <= is_other.sum() <= MAX_OTHER * len(is_other):
        return None
    is_first_half = _halves(sample.num_articles)[sample.articles]
    part = _Part(features, sample.vectors, sample.articles, (is_first_half, ~is_first_half))
    predictions, is_known = part.cross_fitted(~is_other)
    cosines = cosines_from_mean(predictions, sample.vectors, mean=sample.vectors[~is_other].mean(axis=0))
    if not is_of_other_space(cosines[is_other & is_known], cosines[~is_other & is_known]):
        return None
    effect = part.effect(predictions, ~is_other)
    return TextMatch(fault=Fault.OTHER_SPACE, effect=effect, is_bad=is_other, has_own_map=True)


def cosines_from_mean(
    predictions: NDArray[np.float32], vectors: NDArray[np.float32], *, mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the cosine of each prediction with its vector (n, K), both seen from the mean (K,), shape (n,)."""
    found, own = predictions - mean, vectors - mean
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(own, axis=1)
    return np.divide(np.einsum("nk,nk->n", found, own), lengths, out=np.zeros_like(lengths), where=lengths > 0)


def is_of_other_space(of_others: NDArray[np.float32], of_own: NDArray[np.float32]) -> bool:
    """Whether texts predict the vectors of their space, and hardly those that may be of another one."""
    if len(of_others) < MIN_OTHER or not len(of_own) or of_own.mean() < MIN_OWN_COSINE:
        return False
    return bool(of_others.mean() <= OTHER_SPACE * of_own.mean())


# Two spaces.


@dataclass(frozen=True)
class _Part:
    """Some articles."""

    features: sparse.csr_matrix  # shape (n, F)
    vectors: NDArray[np.float32]  # shape (n, K)
    articles: NDArray[np.int64]  # article of each concept, from 0, ascending, shape (n,)
    halves: tuple[NDArray[np.bool_], NDArray[np.bool_]]  # of the articles, to fit on one and predict the other

    def cross_fitted(self, used: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Predict all rows (n, K) with maps fitted on the `used` rows of the other half; which rows they know."""
        predictions, coverages = predicted_by_other_half(self.features, self.vectors, self.halves, used)
        return predictions, coverages >= MIN_COVERAGE

    def effect(self, predictions: NDArray[np.float32], rows: NDArray[np.bool_]) -> float:
        """Return the effect of predictions in some of the rows."""
        codes = np.unique(self.articles[rows], return_inverse=True)[1]
        return article_fits(predictions[rows], self.vectors[rows], codes).effect() if len(codes) else 0.0


def _two_spaces(features: sparse.csr_matrix, sample: ConceptSample) -> TextMatch | None:
    """Return a fault if the rows fall into two parts, either with a map of its own that fails on the other."""
    share = min(1.0, SPACE_CONCEPTS / len(sample.rows))
    chosen = np.random.default_rng(1).permutation(sample.num_articles) < max(MIN_ARTICLES, share * sample.num_articles)
    rows = np.flatnonzero(chosen[sample.articles])
    articles = np.unique(sample.articles[rows], return_inverse=True)[1]
    is_first_half = _halves(articles[-1] + 1)[articles]
    part = _Part(features[rows], sample.vectors[rows], articles, (is_first_half, ~is_first_half))
    is_second = _second_part(part)
    if not _are_two(part, is_second) or not _is_beyond_chance(part, is_second):
        return None
    return _of_two_spaces(features, sample, part, is_second)


def _second_part(part: _Part) -> NDArray[np.bool_]:
    """Search for two maps from several starts; return the rows of the second, shape (n,)."""
    predictions = part.cross_fitted(np.ones(len(part.vectors), np.bool_))[0]
    cosines = cosines_from_mean(predictions, part.vectors, mean=part.vectors.mean(axis=0))
    starts = [axis > np.median(axis) for axis in part.vectors[:, :SPACE_AXES].T]
    starts.append(cosines < np.quantile(cosines, MISFIT_SHARE))
    begun = [_separate(part, start, num_rounds=FIRST_ROUNDS) for start in starts]
    return _separate(part, min(begun, key=lambda start: start[1])[0])[0]


def _is_beyond_chance(part: _Part, is_second: NDArray[np.bool_]) -> bool:
    """Whether two maps predict far better than the same search finds for texts in a random order.

    The search chooses the rows of each map by how well it predicts them, so that in few concepts it finds two maps
    even where there is nothing to find.
    """
    if len(is_second) >= MIN_UNRELATED:
        return True
    rng, effect = np.random.default_rng(2), _own_effect(part, is_second)
    for _ in range(NUM_SHUFFLES):
        shuffled = replace(part, features=part.features[rng.permutation(len(is_second))])
        if effect < SHUFFLED_GAIN * _own_effect(shuffled, _second_part(shuffled)):
            return False
    return True


def _own_effect(part: _Part, is_second: NDArray[np.bool_]) -> float:
    """Return the effect of two maps, each in its own rows."""
    parts = [rows for rows in (~is_second, is_second) if rows.any()]
    return sum(float(part.effect(part.cross_fitted(rows)[0], rows) * rows.mean()) for rows in parts)


def _of_two_spaces(
    features: sparse.csr_matrix, sample: ConceptSample, part: _Part, is_second: NDArray[np.bool_]
) -> TextMatch | None:
    """Assign all concepts of the sample, as whole articles if those fit nearly as well as single concepts."""
    is_second, error = _separate(part, is_second)
    by_article, error_by_article = _separate(part, is_second, by_article=True)
    is_whole = error_by_article <= MAX_ERROR_BY_ARTICLE * error
    is_second = by_article if is_whole else is_second
    maps = [fit_map(part.features[rows], part.vectors[rows]) for rows in (~is_second, is_second)]
    differences = np.subtract(*(_errors(each.predict(features), sample.vectors) for each in maps))
    is_bad = (_summed(differences, sample.articles) if is_whole else differences) > 0
    if not 0 < is_bad.mean() < 1:
        return None
    return TextMatch(fault=Fault.TWO_SPACES, is_bad=is_bad if is_bad.mean() <= 0.5 else ~is_bad, has_own_map=True)


def _separate(
    part: _Part, is_second: NDArray[np.bool_], *, by_article: bool = False, num_rounds: int = SPACE_ROUNDS
) -> tuple[NDArray[np.bool_], float]:
    """Fit two maps in turn, each to the rows that it predicts better; return which rows are second, and the error."""
    errors = np.zeros((2, len(is_second)), np.float32)
    for _ in range(num_rounds):
        errors = np.stack([_errors(part.cross_fitted(used)[0], part.vectors) for used in (~is_second, is_second)])
        differences = errors[0] - errors[1]
        before, is_second = is_second, (_summed(differences, part.articles) if by_article else differences) > 0
        if np.mean(before != is_second) < SPACE_TOLERANCE:
            break
    return is_second, float(np.where(is_second, errors[1], errors[0]).sum())


def _summed(values: NDArray[np.float32], articles: NDArray[np.int64]) -> NDArray[np.float64]:
    """Replace each value by the sum of its article, shape (n,)."""
    return np.bincount(articles, weights=values)[articles].astype(np.float64)


def _errors(predictions: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.square(predictions - vectors).sum(axis=1)


def _are_two(part: _Part, is_second: NDArray[np.bool_]) -> bool:
    """Whether two maps predict better than one, and either fails on texts of the other's rows though it knows them."""
    if not MIN_SPACE <= is_second.mean() <= 1 - MIN_SPACE:
        return False
    of_one = part.effect(part.cross_fitted(np.ones(len(is_second), np.bool_))[0], np.ones(len(is_second), np.bool_))
    of_own = 0.0
    for rows in (~is_second, is_second):
        own = part.effect(part.cross_fitted(rows)[0], rows)
        predictions, is_known = part.cross_fitted(~rows)
        is_smaller = rows.mean() <= 0.5  # a map of few texts knows few words of the others
        if own < MIN_SPACE_EFFECT or (is_smaller and is_known[rows].mean() < MIN_COVERAGE):
            return False
        if part.effect(predictions, rows & is_known) > OTHER_SPACE * own:
            return False
        of_own += own * rows.mean()
    return of_own >= MIN_SPACE_GAIN * of_one
