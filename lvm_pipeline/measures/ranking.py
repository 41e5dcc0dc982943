"""Baselines made for ranking: their vectors need not be close to the target, only closer than to other concepts.

All are fitted on train articles, read as much as the model, and are scored on the model's pool without the earlier rows
of the target's article.

The ranking query is linear: q_d = sum_k weight_kd summary_kd in the eigenbasis of the train covariance, with weights of
any sign for every direction. It minimises the cross-entropy of the target among train concepts, the earlier rows of its
article left out, by Adam.

Shapes: S = targets, B = targets in a step, P = candidates, D = vector width, K = decays.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from lvm_pipeline.measures.baselines import COPY_LAST, Baseline
from lvm_pipeline.measures.eigenbasis import context_summaries, eigenbasis, rotated_spans
from lvm_pipeline.measures.linear_forecast import DECAYS
from lvm_pipeline.measures.retrieval import EARLIER_ROWS, target_ranks
from lvm_pipeline.measures.samples import MAX_FITTED_TARGETS, is_sampled
from lvm_pipeline.measures.targets import Contexts, Targets
from lvm_pipeline.measures.weighted_means import best_step, decayed_means

DECAYED_MEAN = "decayed_mean"
RANKING_QUERY = "ranking_query"
RANKING_BASELINES = {
    COPY_LAST: "repeats the last concept",
    DECAYED_MEAN: "mean of the context with weights decay^k, decay with the highest MRR on train",
    RANKING_QUERY: "linear query with weights per principal direction, fitted by softmax over train concepts",
}
FIRST_TENTH = 5
MAX_RANKED_TRAIN_TARGETS = 1500
MAX_TRAIN_CANDIDATES = 32_768
ARTICLES_IN_A_STEP = 8
OTHER_CANDIDATES = 2048  # drawn for every step from all train concepts
NUM_STEPS = 120
LEARNING_RATE = 0.3
MOMENTS = (0.9, 0.98)
SMALLEST_LENGTH = 1e-12  # of a vector that is scaled to length one
START_SCALE = 20.0  # of the decayed mean that the query starts from; the usual inverse temperature of cosines

Vectors = NDArray[np.float32]


def fit_ranking_baselines(targets: Targets, *, seed: int = 0) -> list[Baseline]:
    """Fit the ranking baselines but `copy_last`, which is one of the other baselines, too."""
    vectors = targets.vectors
    decay = _best_decay(targets)
    query = fit_ranking_query(targets, decay=decay, seed=seed)
    return [
        Baseline(
            name=DECAYED_MEAN,
            predict=lambda contexts: decayed_means(vectors, contexts.first_rows, contexts.target_rows, decay=decay),
            fitted={"decay": decay},
        ),
        Baseline(name=RANKING_QUERY, predict=lambda contexts: query.predict(vectors, contexts)),
    ]


@dataclass(frozen=True, kw_only=True)
class RankingQuery:
    """A linear query: weights (K + 1, D) of the summaries in the basis (D, D)."""

    basis: Vectors
    weights: Vectors

    def predict(self, vectors: Vectors, contexts: Contexts) -> Vectors:
        """Return the query of each context, (S, D)."""
        decays = np.asarray(DECAYS, np.float32)
        summaries = context_summaries(vectors, contexts.first_rows, contexts.target_rows, self.basis, decays)
        return np.einsum("kbd,kd->bd", summaries, self.weights) @ self.basis.T


def fit_ranking_query(targets: Targets, *, decay: float, seed: int) -> RankingQuery:
    """Fit the ranking query on train articles, starting from the decayed mean.

    About 60,000 targets at most are used, of articles evenly spaced.
    """
    rng = np.random.default_rng(seed)
    basis = eigenbasis(targets.vectors, targets.train_rows)
    train = _rotated_train(targets, basis)
    weights = np.zeros((len(DECAYS) + 1, len(basis)), np.float32)
    weights[np.argmin(np.abs(np.asarray(DECAYS) - decay))] = START_SCALE
    articles, starts = np.unique(train.contexts.articles, return_index=True)
    ends = np.append(starts[1:], len(train.contexts))
    adam = _Adam(weights)
    for step in range(NUM_STEPS):
        drawn = rng.choice(len(articles), min(ARTICLES_IN_A_STEP, len(articles)), replace=False)
        chosen = np.zeros(len(train.contexts), bool)
        for index in drawn:
            chosen[starts[index] : ends[index]] = True
        others = rng.choice(len(train.vectors), min(OTHER_CANDIDATES, len(train.vectors)), replace=False)
        gradient = _gradient(train, train.contexts.part(chosen), others, weights)
        adam.step(weights, gradient, share_left=1 - step / NUM_STEPS)
    return RankingQuery(basis=basis, weights=weights)


@dataclass(frozen=True, kw_only=True)
class _RotatedTrain:
    """Train concepts in the eigenbasis; the rows of the contexts are those of `vectors`."""

    vectors: Vectors  # (N, D)
    inverse_lengths: Vectors  # (N, 1)
    contexts: Contexts


def _rotated_train(targets: Targets, basis: Vectors) -> _RotatedTrain:
    train = targets.train.part(is_sampled(targets.train.articles, at_most=MAX_FITTED_TARGETS))
    firsts = np.minimum(train.first_rows, train.article_first_rows)
    rotated = rotated_spans(targets.vectors, firsts, train.target_rows, basis)
    lengths = np.linalg.norm(rotated.vectors, axis=1, keepdims=True)
    return _RotatedTrain(
        vectors=rotated.vectors,
        inverse_lengths=1 / np.maximum(lengths, SMALLEST_LENGTH),
        contexts=Contexts(
            target_rows=rotated.indices(train.target_rows),
            first_rows=rotated.indices(train.first_rows),
            window_rows=rotated.indices(train.window_rows),
            article_first_rows=rotated.indices(train.article_first_rows),
            articles=train.articles,
        ),
    )


def _gradient(train: _RotatedTrain, contexts: Contexts, others: NDArray[np.int64], weights: Vectors) -> Vectors:
    """Return the gradient of the mean cross-entropy over some targets, (K + 1, D)."""
    rows = np.union1d(contexts.target_rows, others)
    candidates = train.vectors[rows] * train.inverse_lengths[rows]
    decays = np.asarray(DECAYS, np.float32)
    summaries = context_summaries(train.vectors, contexts.first_rows, contexts.target_rows, None, decays)
    logits = np.einsum("kbd,kd->bd", summaries, weights) @ candidates.T
    is_earlier = (rows >= contexts.article_first_rows[:, None]) & (rows < contexts.target_rows[:, None])
    logits[is_earlier] = -np.inf
    shares = softmax(logits, axis=1)
    shares[np.arange(len(shares)), np.searchsorted(rows, contexts.target_rows)] -= 1
    return np.einsum("kbd,bd->kd", summaries, shares @ candidates) / len(contexts)


class _Adam:
    def __init__(self, weights: Vectors):
        self.mean, self.square, self.num_steps = np.zeros_like(weights), np.zeros_like(weights), 0

    def step(self, weights: Vectors, gradient: Vectors, *, share_left: float) -> None:
        """Change the weights in place; the learning rate falls linearly with the share of steps left."""
        self.num_steps += 1
        first, second = MOMENTS
        self.mean += (1 - first) * (gradient - self.mean)
        self.square += (1 - second) * (gradient**2 - self.square)
        mean, square = self.mean / (1 - first**self.num_steps), self.square / (1 - second**self.num_steps)
        weights -= LEARNING_RATE * share_left * mean / (np.sqrt(square) + 1e-12)


def _best_decay(targets: Targets) -> float:
    """Return the decay, in tenths, whose mean finds train targets best among at most about 32,768 train concepts."""
    every = -(-len(targets.train) // MAX_RANKED_TRAIN_TARGETS)
    sample = targets.train.part(slice(None, None, every))
    candidates = targets.train_rows[:: -(-len(targets.train_rows) // MAX_TRAIN_CANDIDATES)]
    pool = np.union1d(candidates, sample.target_rows)
    among_train = replace(targets, scored=sample, pool_rows=pool)

    def score(tenth: int) -> float:
        means = decayed_means(targets.vectors, sample.first_rows, sample.target_rows, decay=tenth / 10)
        return float((1 / target_ranks(means, sample, among_train)[EARLIER_ROWS]).mean())

    return best_step(score, start=FIRST_TENTH, last=10) / 10
