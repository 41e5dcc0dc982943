"""Figures that put a mean cosine into perspective, of the model and of copying the last concept.

Shapes: S = targets, D = vector width, C = clusters.
"""

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.store import read_texts
from lvm_pipeline.evaluation.kept import kept_or_made
from lvm_pipeline.measures.baselines import COPY_LAST
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.standing import (
    ClusterScores,
    ContrastiveAccuracy,
    cluster_scores,
    contrastive_accuracy,
    effective_rank,
    fit_clusters,
    nearest_clusters,
)
from lvm_pipeline.measures.uncertainty import Interval, article_interval
from lvm_pipeline.source.encoders.encoder import Encoder
from lvm_pipeline.training.provenance import code_version

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.scoring import ScoredModel

WORDS = (1, 3, 5, 10)
MAX_ENCODED_TARGETS = 512
KEPT_FILES = 4


@dataclass(frozen=True, kw_only=True)
class Standing:
    name: str
    contrastive: ContrastiveAccuracy
    clusters: ClusterScores
    effective_rank: float


@dataclass(frozen=True, kw_only=True)
class LeakStep:
    """Cosine between the target and its own first words, encoded: the score of a predictor that knows these words."""

    num_words: int
    cosine: Interval


@dataclass(frozen=True, kw_only=True)
class StandingScores:
    """Figures of the model and of copying the last concept, and the leak ladder."""

    predictors: tuple[Standing, ...]  # the model first
    target_effective_rank: float  # of the targets themselves
    leak_ladder: tuple[LeakStep, ...] | None  # none if the encoder of the space is not on this machine


def standing_scores(
    scored: "ScoredModel", *, concepts_path: Path, cache_dir: Path | None, encoder: Encoder | None, seed: int
) -> StandingScores:
    """Measure the model and the last concept on the targets that are ranked.

    The clusters of train concepts and the leak ladder are cached in `cache_dir` (None: no cache); the leak ladder needs
    the encoder of the vectors' space.
    """
    targets = scored.targets
    rows = targets.ranked.target_rows
    wanted = np.asarray(targets.vectors[rows], np.float32)
    centroids = centroids_of(scored, cache_dir, seed=seed)
    clusters = nearest_clusters(wanted, centroids)
    last = np.asarray(targets.vectors[rows - 1], np.float32)
    predicted = scored.predictions[targets.ranked_indices]
    return StandingScores(
        predictors=tuple(
            Standing(
                name=name,
                contrastive=contrastive_accuracy(predictions, targets, seed=seed),
                clusters=cluster_scores(predictions, clusters, centroids),
                effective_rank=effective_rank(predictions),
            )
            for name, predictions in ((scored.info.trial_id, predicted), (COPY_LAST, last))
        ),
        target_effective_rank=effective_rank(wanted),
        leak_ladder=None if encoder is None else _leak_ladder(scored, encoder, concepts_path, cache_dir),
    )


def _leak_ladder(
    scored: "ScoredModel", encoder: Encoder, concepts_path: Path, cache_dir: Path | None
) -> tuple[LeakStep, ...]:
    """Score the first words of the targets, or read what an earlier call on the same targets cached."""
    contexts = scored.targets.scored
    contexts = contexts.part(slice(None, None, -(-len(contexts) // MAX_ENCODED_TARGETS)))

    def make() -> tuple[LeakStep, ...]:
        texts = read_texts(concepts_path, contexts.target_rows)
        wanted = np.asarray(scored.targets.vectors[contexts.target_rows], np.float32)
        beginnings = {num: [" ".join(text.split()[:num]) for text in texts] for num in WORDS}
        found = {num: cosines(encoder.encode(words), wanted) for num, words in beginnings.items()}
        return tuple(LeakStep(num_words=num, cosine=article_interval(found[num], contexts.articles)) for num in found)

    rows = contexts.target_rows.tolist()
    return kept_or_made(
        cache_dir,
        "leak-ladder",
        [scored.data.concepts.fingerprint, rows, encoder.space_id, code_version(__name__)],
        make=make,
        pack=lambda ladder: ({}, [[step.num_words, *astuple(step.cosine)] for step in ladder]),
        unpack=lambda _, facts: tuple(LeakStep(num_words=num, cosine=Interval(*cosine)) for num, *cosine in facts),
        num_kept=KEPT_FILES,
    )


def centroids_of(scored: "ScoredModel", cache_dir: Path | None, *, seed: int) -> NDArray[np.float32]:
    """Fit the clusters of the train concepts, or read those of an earlier call."""
    targets = scored.targets
    return kept_or_made(
        cache_dir,
        "clusters",
        [scored.data.sequences.metadata.fingerprint, seed, code_version(__name__)],
        make=lambda: fit_clusters(targets.vectors, targets.train_rows, seed=seed),
        pack=lambda centroids: ({"centroids": centroids}, None),
        unpack=lambda arrays, _: arrays["centroids"],
        num_kept=KEPT_FILES,
    )
