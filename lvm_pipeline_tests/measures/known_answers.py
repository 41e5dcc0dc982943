"""Processes whose scores can be worked out by hand, and what each measure, baseline and control must say of them.

Processes: a *rotation* (every article turns by one fixed rotation, so the next vector is a linear map of the last),
*white noise* (nothing is predictable), a *random walk* of unit steps without a start (neighbours at a known cosine),
exact *copies* (each article repeats one vector) and *topics* (each concept is its article's topic and as much noise).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lvm_pipeline.evaluation.controls import control_scores
from lvm_pipeline.measures import metrics
from lvm_pipeline.measures.baselines import fit_baselines
from lvm_pipeline.measures.retrieval import CONTEXT_ROWS, chance_scores, retrieval_scores, target_ranks
from lvm_pipeline.measures.scores import MeanScores, given_predictions, score_predictor
from lvm_pipeline_tests.measures.processes import process_vectors, targets_of_process, targets_on

LENGTHS = (25,) * 40
WIDTH = 16


@dataclass(frozen=True)
class Answer:
    """A measured value beside the value that it must have."""

    what: str
    found: float
    expected: float
    tolerance: float

    def is_right(self) -> bool:
        return bool(abs(self.found - self.expected) <= self.tolerance)


def known_answers() -> list[Answer]:
    """Measure everything; cheap enough to be done again with a diagnostic that was broken on purpose."""
    return [*_of_closeness(), *_of_retrieval(), *_of_baselines(), *_of_controls(), *_of_collapse()]


def _of_closeness() -> Iterator[Answer]:
    """A prediction at 60 degrees from its target and twice as long, in a space whose mean is orthogonal to both."""
    targets = np.tile(np.eye(3, dtype=np.float32)[0], (7, 1))
    predictions = np.tile(np.array([1.0, np.sqrt(3.0), 0.0], np.float32), (7, 1))
    mean = np.array([0.0, 0.0, 2.0], np.float32)
    found = metrics.closeness(predictions, targets, mean).means()
    expected = {
        "cosine": 0.5,
        "centred_cosine": (1 + 4) / (np.sqrt(8) * np.sqrt(5)),
        "mse": 3 / 3,
        "l2": np.sqrt(3),
        "norm_ratio": 2.0,
    }
    for name, value in expected.items():
        yield Answer(f"{name} at 60 degrees", found[name], value, 1e-6)


def _of_retrieval() -> Iterator[Answer]:
    """Ranks 1 to 4 by construction; then noise, which is found no more often than by chance."""
    found, chance = retrieval_scores(np.array([1, 2, 3, 4])), chance_scores(np.full(4, 10))
    yield Answer("r_at_1 of ranks 1 to 4", found.r_at_1, 0.25, 1e-9)
    yield Answer("r_at_5 of ranks 1 to 4", found.r_at_5, 1.0, 1e-9)
    yield Answer("mrr of ranks 1 to 4", found.mrr, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, 1e-9)
    yield Answer("median_rank of ranks 1 to 4", found.median_rank, 2.5, 1e-9)
    yield Answer("chance of R@5 among 10", chance.r_at_5, 0.5, 1e-9)
    yield Answer("chance of MRR among 10", chance.mrr, float(np.mean(1 / np.arange(1, 11))), 1e-9)
    targets = targets_of_process("noise", lengths=LENGTHS, vector_dim=WIDTH)
    truth = np.asarray(targets.vectors[targets.scored.target_rows])
    yield Answer("rank of the truth", float(target_ranks(truth, targets.scored, targets)[CONTEXT_ROWS].max()), 1.0, 0)
    opposite = target_ranks(-truth, targets.scored, targets)[CONTEXT_ROWS]
    last = len(targets.pool_rows) - targets.context_length
    yield Answer("rank of the truth's opposite", float(opposite.min()), last, 0)


def _of_baselines() -> Iterator[Answer]:
    """Each baseline on the process that it is made for, and on noise, which none can predict."""
    copies = _scores(process_vectors("copies", lengths=LENGTHS, vector_dim=WIDTH))
    for name in ("copy_last", "context_mean", "recency_weighted_mean", "ridge_residual"):
        yield Answer(f"cosine of {name} on copies", copies[name].cosine, 1.0, 1e-4)
    rotation = _scores(process_vectors("rotation", lengths=LENGTHS, vector_dim=WIDTH))
    for name in ("ridge", "ridge_residual"):
        yield Answer(f"cosine of {name} on a rotation", rotation[name].cosine, 1.0, 2e-3)
    angles = np.linspace(0.2, 1.2, WIDTH // 2)
    yield Answer("cosine of copy_last on a rotation", rotation["copy_last"].cosine, float(np.cos(angles).mean()), 1e-5)
    noise = _scores(process_vectors("noise", lengths=LENGTHS, vector_dim=WIDTH))
    for name, found in noise.items():
        yield Answer(f"cosine of {name} on noise", found.cosine, 0.0, 0.08)
    walk = _scores(walk_vectors())
    yield Answer("cosine of copy_last on a walk", walk["copy_last"].cosine, STAY, 0.02)
    yield Answer("cosine of context_mean on a walk", walk["context_mean"].cosine, context_mean_on_walk(), 0.02)
    topics = _scores(topic_vectors(), context_mode="articles")
    for name, lengths in (("context_mean", [5]), ("article_mean_mix", range(5, LENGTHS[0]))):
        expected = np.mean([mean_on_topics(length) for length in lengths])
        yield Answer(f"cosine of {name} on topics", topics[name].cosine, float(expected), 0.01)


STAY = 0.9  # cosine of neighbours in the walk


def walk_vectors(seed: int = 0) -> np.ndarray:
    """Unit vectors of articles that walk on the sphere: each is at cosine 0.9 from the one before, in a random way."""
    rng = np.random.default_rng(seed)
    rows = []
    for length in LENGTHS:
        vector = rng.standard_normal(WIDTH)
        vector /= np.linalg.norm(vector)
        for _ in range(length):
            rows.append(vector)
            step = rng.standard_normal(WIDTH)
            step -= (step @ vector) * vector
            vector = STAY * vector + np.sqrt(1 - STAY**2) * step / np.linalg.norm(step)
    return np.array(rows, np.float32)


def context_mean_on_walk(length: int = 5) -> float:
    """Cosine of the mean of the last five to the next: neighbours k apart are at 0.9^k on the average."""
    lags = np.arange(length)
    square = (STAY ** np.abs(lags[:, None] - lags[None])).mean()
    return float((STAY ** (lags + 1)).mean() / np.sqrt(square))


TOPIC_WIDTH = 128  # wide enough that two directions drawn at random are nearly orthogonal


def topic_vectors(seed: int = 0) -> np.ndarray:
    """Unit vectors, each the sum of its article's direction and of one of its own: neighbours are at cosine 0.5."""
    rng = np.random.default_rng(seed)
    topics = np.repeat(rng.standard_normal((len(LENGTHS), TOPIC_WIDTH)), LENGTHS, axis=0)
    vectors = topics + rng.standard_normal(topics.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def mean_on_topics(length: int) -> float:
    """Cosine of the mean of so many concepts to the next: their own directions shrink with the number."""
    return float(0.5 / np.sqrt(0.5 + 0.5 / length))


def _scores(vectors: np.ndarray, **options: str) -> dict[str, MeanScores]:
    targets = targets_on(vectors, LENGTHS, **options)
    return {baseline.name: score_predictor(baseline.predict, targets).means() for baseline in fit_baselines(targets)}


class Stub(torch.nn.Module):
    """A predictor by rule, as the controls call a model."""

    max_context = None

    def __init__(self, rule: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.rule = rule

    def forward(
        self, contexts: torch.Tensor, condition: torch.Tensor | None = None, at: torch.Tensor | None = None
    ) -> torch.Tensor:
        predictions = self.rule(contexts)
        return predictions if at is None else predictions[at]


def _of_controls() -> Iterator[Answer]:
    """Copying the last concept of a walk: shuffling leaves a mean over five lags, another article leaves nothing."""
    targets = targets_on(walk_vectors(), LENGTHS)
    found = control_scores(Stub(lambda contexts: contexts), targets, device="cpu")
    shuffled = float((STAY ** np.arange(1, 6)).mean())
    yield Answer("control as it is", found.cosine, STAY, 0.02)
    yield Answer("control with order shuffled", found.order_shuffled.cosine, shuffled, 0.03)
    yield Answer("control with another context", found.wrong_context.cosine, 0.0, 0.2)
    average = control_scores(
        Stub(lambda contexts: contexts.mean(dim=1, keepdim=True).expand_as(contexts)), targets, device="cpu"
    )
    yield Answer("loss of a mean by shuffling", average.order_shuffled.loss.mean, 0.0, 1e-6)


def _of_collapse() -> Iterator[Answer]:
    """The truth varies as much as the targets, one vector not at all; half of each a quarter as much."""
    targets = targets_of_process("noise", lengths=LENGTHS, vector_dim=WIDTH)
    truth, mean = np.asarray(targets.vectors[targets.scored.target_rows]), targets.train_mean
    for what, predictions, expected in (
        ("of the truth", truth, 1.0),
        ("of one vector", np.tile(mean, (len(truth), 1)), 0.0),
    ):
        scores = score_predictor(given_predictions(predictions, targets), targets)
        yield Answer(f"variance fraction {what}", scores.spread.variance_fraction, expected, 1e-5)
        recall = scores.means().retrieval[CONTEXT_ROWS].r_at_1
        yield Answer(f"R@1 {what}", recall, expected, 0.1)  # one vector is the closest to one target at times
    yield Answer("cosine to the mean of the mean", scores.spread.cosine_to_mean, 1.0, 1e-6)
