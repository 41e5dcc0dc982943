"""A linear map from texts to vectors, fitted on some articles, and how well it tells the concepts of an article apart.

The map: the vector of a feature is the sum of the vectors of the texts that have it; a text is the weighted sum of its
features; a ridge regression turns that sum into a prediction of the vector. Fitting it takes two sparse products.

The measure: in one article, cosines of all predictions and all vectors, both centred on the article and then centred
by row and column. If text and vector go together, the diagonal stands out. If not, each order of the vectors was as
likely as this one, so the sum of the diagonal has mean 0 and a variance in closed form (Hoeffding 1951).

Shapes: n = concepts, A = articles, F = features, K = components of a vector.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from lvm_pipeline.concepts.sample import pieces_of

RIDGE = 0.01  # of the mean eigenvalue
MIN_LENGTH = 3  # concepts of an article whose predictions are judged
MAX_OFFSET = 3
OFFSETS = tuple(range(-MAX_OFFSET, MAX_OFFSET + 1))


@dataclass(frozen=True, kw_only=True)
class TextMap:
    """A fitted map."""

    mean: NDArray[np.float32]  # mean vector, shape (K,)
    weights: NDArray[np.float32]  # of the features, shape (F, K)
    is_known: NDArray[np.bool_]  # which features it was fitted on, shape (F,)

    def predict(self, features: sparse.csr_matrix) -> NDArray[np.float32]:
        """Predict the vectors of texts, shape (n, K)."""
        return self.mean + features @ self.weights

    def coverage(self, features: sparse.csr_matrix) -> NDArray[np.float32]:
        """Return the share of each text that the map knows, shape (n,); rows of `features` have length 1."""
        return features.power(2) @ self.is_known.astype(np.float32)


def fit_map(features: sparse.csr_matrix, vectors: NDArray[np.float32]) -> TextMap:
    """Fit a map on texts (n, F) with their vectors (n, K)."""
    mean = vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1], np.float32)
    centred = vectors - mean
    of_features = features.T @ centred
    sums = features @ of_features
    gram = sums.T @ sums
    penalty = RIDGE * np.trace(gram) / len(gram)
    weights = np.zeros_like(gram)
    if penalty > 0:
        weights = linalg.solve(gram + penalty * np.eye(len(gram), dtype=gram.dtype), sums.T @ centred, assume_a="pos")
    is_known = np.bincount(features.indices, minlength=features.get_shape()[1]) > 0
    return TextMap(mean=mean, weights=(of_features @ weights).astype(np.float32), is_known=is_known)


def predicted_by_other_half(
    features: sparse.csr_matrix,
    vectors: NDArray[np.float32],
    halves: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    used: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Predict the vectors of either half (n,) with a map fitted on the `used` rows of the other half.

    Returns predictions (n, K), and which share of each text that map knows (n,). Both maps are fitted at once, each by
    a thread of its own.
    """
    predictions, coverages = np.empty_like(vectors), np.empty(len(used), np.float32)

    def predict_from(half: NDArray[np.bool_]) -> None:
        fitted = fit_map(features[half & used], vectors[half & used])
        predictions[~half] = fitted.predict(features[~half])
        coverages[~half] = fitted.coverage(features[~half])

    with ThreadPoolExecutor(len(halves)) as threads:
        list(threads.map(predict_from, halves))
    return predictions, coverages


@dataclass(frozen=True, kw_only=True)
class ArticleFits:
    """How well predictions tell the concepts of each article apart."""

    lengths: NDArray[np.int64]  # concepts of each article, shape (A,)
    sums: NDArray[np.float64]  # sum of the diagonal at each of `OFFSETS`, shape (A, offsets); later vectors if above 0
    deviations: NDArray[np.float64]  # standard deviation of the sum if text and vector were unrelated, shape (A,)
    of_rows: NDArray[np.float32]  # diagonal, shape (n,); above 0 if a text fits its vector better than the others

    def scores(self, offset: int = 0) -> NDArray[np.float64]:
        """Sum of each article in standard deviations, shape (A,); about normal if unrelated, 0 if not measurable."""
        sums, is_measured = self.sums[:, OFFSETS.index(offset)], self.deviations > 0
        return np.divide(sums, self.deviations, out=np.zeros_like(sums), where=is_measured)

    def strengths(self) -> NDArray[np.float64]:
        """Scores that do not grow with the length of the article, shape (A,)."""
        return self.scores() / np.sqrt(np.maximum(self.lengths - 1, 1))

    def effect(self, offset: int = 0) -> float:
        """Mean difference of cosines, a text with its own vector minus with the others of the article."""
        return float(self.sums[:, OFFSETS.index(offset)].sum() / max(1, self.lengths.sum()))

    def total_score(self, offset: int = 0) -> float:
        """Score of all articles together."""
        return float(self.scores(offset).sum() / np.sqrt(max(1, np.count_nonzero(self.deviations))))


def article_fits(
    predictions: NDArray[np.float32], vectors: NDArray[np.float32], articles: NDArray[np.int64]
) -> ArticleFits:
    """Compare predictions with vectors inside each article.

    Args:
        predictions: Shape (n, K).
        vectors: Shape (n, K).
        articles: Article of each concept, shape (n,), ascending from 0.
    """
    lengths = np.bincount(articles)
    sums, variances = np.zeros((len(lengths), len(OFFSETS))), np.zeros(len(lengths))
    of_rows = np.zeros(len(articles), np.float32)
    for start, stop in pieces_of(lengths, min_length=MIN_LENGTH):
        table = _centred_unit(predictions[start:stop]) @ _centred_unit(vectors[start:stop]).T
        table += table.mean() - table.mean(axis=0) - table.mean(axis=1)[:, None]
        article = articles[start]
        variances[article] += np.square(table).sum() / (len(table) - 1)
        sums[article] += [np.trace(table, offset=offset) for offset in OFFSETS]
        of_rows[start:stop] = np.diagonal(table)
    return ArticleFits(lengths=lengths, sums=sums, deviations=np.sqrt(variances), of_rows=of_rows)


def _centred_unit(block: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = block - block.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
