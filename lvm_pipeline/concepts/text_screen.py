"""Screen the articles outside the sample in one pass over the table.

Two things make an article suspicious: a vector that points where random directions do, and a map from texts to vectors,
fitted on the sample, that does not tell its concepts apart though it knows their words. `match_texts` then judges the
sample and the suspicious articles together. Memory holds one row group at a time.

Shapes: N = concepts in the table, A = articles, n = rows of a piece.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lvm_pipeline.concepts.facts import ConceptFacts
from lvm_pipeline.concepts.sample import ConceptSample, max_rows_of
from lvm_pipeline.concepts.store import stream_row_groups
from lvm_pipeline.concepts.text_features import Vocabulary, vocabulary_of
from lvm_pipeline.concepts.text_maps import OFFSETS, ArticleFits, TextMap, article_fits, fit_map
from lvm_pipeline.concepts.text_match import SHIFTED_SCORE

MAX_SHARE = 1 / 6  # of a sample, that suspicious articles may add to it
LOW_STRENGTH = 0.5  # relative to the median article; looser than what is a fault
MIN_EXPECTED = 6.0  # score of a sound article of this length, below which texts do not tell
MIN_KNOWN = 0.5  # share of an article's words


@dataclass(frozen=True, kw_only=True)
class Suspicious:
    """Articles outside the sample that should be looked at."""

    codes: list[int]  # indices into `ConceptFacts.article_ids`, most suspicious first, as many as there is room for
    num: int  # all of them
    num_screened: int  # concepts outside the sample


@dataclass(frozen=True)
class _Fits:
    """How the articles outside the sample fit, each of shape (A,); zeros for those inside."""

    lengths: NDArray[np.int64]
    scores: NDArray[np.float64]
    shifted: NDArray[np.float64]  # best score at a distance
    known: NDArray[np.float64]  # sum of the shares of known words
    num_random: NDArray[np.int64]  # vectors that point where random directions do


def suspicious_articles(facts: ConceptFacts, sample: ConceptSample) -> Suspicious:
    """Look through all articles outside a sample.

    Raises:
        LvmError: If the table cannot be read.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        fits = _fits_outside(facts, sample)
    strengths = fits.scores / np.sqrt(np.maximum(fits.lengths - 1, 1))
    is_measured = (fits.lengths > 2) & (fits.known >= MIN_KNOWN * fits.lengths)
    usual = float(np.median(strengths[is_measured])) if is_measured.any() else 0.0
    expected = usual * np.sqrt(np.maximum(fits.lengths - 1, 0))
    is_low = (strengths < LOW_STRENGTH * usual) & (fits.scores < expected - MIN_EXPECTED) & (expected >= MIN_EXPECTED)
    is_shifted = (fits.shifted >= SHIFTED_SCORE) & (fits.shifted >= fits.scores + SHIFTED_SCORE)
    found = np.flatnonzero((is_measured & (is_low | is_shifted)) | (fits.num_random > 0))
    missing = np.maximum(expected - fits.scores, 0) * is_measured
    found = found[np.lexsort((-missing[found], -fits.num_random[found]))]
    is_room = np.cumsum(fits.lengths[found]) <= MAX_SHARE * max_rows_of(facts.metadata.vector_dim)
    return Suspicious(codes=found[is_room].tolist(), num=len(found), num_screened=int(fits.lengths.sum()))


def _fits_outside(facts: ConceptFacts, sample: ConceptSample) -> _Fits:
    num_articles = len(facts.article_ids)
    is_outside = np.ones(num_articles, np.bool_)
    is_outside[sample.article_codes] = False
    wanted = facts.is_usable & is_outside[facts.article_codes]
    vocabulary, features = vocabulary_of(sample.texts)
    fitted = fit_map(features, sample.vectors)
    lengths, num_random = np.zeros(num_articles, np.int64), np.zeros(num_articles, np.int64)
    sums, variances, known = np.zeros((num_articles, len(OFFSETS))), np.zeros(num_articles), np.zeros(num_articles)
    directions = sample.directions if sample.directions and sample.directions.is_apart(sample.scores) else None
    first_row = 0
    for group in stream_row_groups(facts.path, ["concept_text", "vector"]):
        some = np.flatnonzero(wanted[first_row : first_row + group.num_rows])
        some = some[np.argsort(facts.article_codes[first_row + some], kind="stable")]
        codes, articles = np.unique(facts.article_codes[first_row + some], return_inverse=True)
        first_row += group.num_rows
        if not len(some):
            continue
        rows = group.take(pa.array(some))
        vectors = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(some), -1)
        fits, shares = _fits_of(rows["concept_text"].combine_chunks(), vectors, articles, sample, vocabulary, fitted)
        lengths[codes] += fits.lengths
        sums[codes] += fits.sums
        variances[codes] += np.square(fits.deviations)
        known[codes] += np.bincount(articles, weights=shares)
        if directions is not None:
            is_random = directions.scores(vectors) < directions.limit
            num_random[codes] += np.bincount(articles, weights=is_random).astype(np.int64)
    deviations = np.sqrt(variances)
    scores = np.divide(sums, deviations[:, None], out=np.zeros_like(sums), where=deviations[:, None] > 0)
    at = OFFSETS.index(0)
    return _Fits(lengths, scores[:, at], np.delete(scores, at, axis=1).max(axis=1), known, num_random)


def _fits_of(
    texts: pa.Array,
    vectors: NDArray[np.float32],
    articles: NDArray[np.int64],
    sample: ConceptSample,
    vocabulary: Vocabulary,
    fitted: TextMap,
) -> tuple[ArticleFits, NDArray[np.float32]]:
    """Compare some texts with their vectors; return the share of each text that is known, too."""
    features, shares = vocabulary.features(texts)
    predictions = fitted.predict(features).astype(np.float32)
    return article_fits(predictions, sample.basis.components(vectors), articles), shares
