"""Score a predictor on every target, block by block.

Shapes: S = targets, R = targets that are ranked, B = targets in a block, D = vector width.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lvm_pipeline.measures.metrics import Closeness, Spread, SpreadMeter, SpreadSums, Values, closeness
from lvm_pipeline.measures.retrieval import (
    EXCLUSIONS,
    Exclusion,
    Ranks,
    RetrievalScores,
    ranks_with_each,
    retrieval_scores,
)
from lvm_pipeline.measures.targets import Contexts, Targets, blocks_of
from lvm_pipeline.measures.threads import in_threads


@dataclass(frozen=True, kw_only=True)
class MeanScores:
    """Mean scores of one predictor over all targets; `retrieval` by exclusion rule. See `metrics.Closeness`."""

    cosine: float
    centred_cosine: float
    mse: float
    l2: float
    norm_ratio: float
    retrieval: dict[Exclusion, RetrievalScores]


@dataclass(frozen=True, kw_only=True)
class Scores:
    closeness: Closeness  # measures of every prediction
    ranks: Ranks  # rank of every ranked target under each exclusion rule, shape (R,) each
    spread: Spread  # whether predictions depend on the context
    corrected_ranks: Ranks | None = None  # ranks with the penalties of the candidates, if there are any

    def means(self) -> MeanScores:
        retrieval: dict[Exclusion, RetrievalScores] = {
            rule: retrieval_scores(ranks) for rule, ranks in self.ranks.items()
        }
        return MeanScores(**self.closeness.means(), retrieval=retrieval)


def score_predictor(
    predict: Callable[[Contexts], Values], targets: Targets, *, penalties: Values | None = None
) -> Scores:
    """Score the predictions (B, D) that `predict` returns for each block of contexts; several threads call it.

    If `penalties` (P,) of the candidates are given, targets are ranked both without and with them.
    """
    meter = SpreadMeter(targets.train_mean)
    measured, ranked, ranked_rows = [], [], targets.ranked.target_rows

    def measure(contexts: Contexts) -> tuple[SpreadSums, Closeness, Values]:
        predictions = predict(contexts)
        wanted = np.asarray(targets.vectors[contexts.target_rows], np.float32)
        is_ranked = np.isin(contexts.target_rows, ranked_rows, assume_unique=True)
        found = closeness(predictions, wanted, targets.train_mean)
        return meter.sums_of(predictions, wanted), found, predictions[is_ranked]

    for sums, found, of_ranked in in_threads(measure, blocks_of(targets.scored)):
        meter.add_sums(sums)
        measured.append(found)
        ranked.append(of_ranked)
    columns = [asdict(block) for block in measured]
    each = [None] if penalties is None else [None, penalties]
    plain, *corrected = ranks_of_sample(np.concatenate(ranked), targets, each)
    return Scores(
        closeness=Closeness(**{name: np.concatenate([column[name] for column in columns]) for name in columns[0]}),
        ranks=plain,
        spread=meter.spread(),
        corrected_ranks=corrected[0] if corrected else None,
    )


def ranks_of_sample(predictions: Values, targets: Targets, penalties: Sequence[Values | None]) -> list[Ranks]:
    """Rank the targets of `targets.ranked` by their predictions, (R, D), with each of the penalties."""
    blocks = list(blocks_of(targets.ranked))
    found = np.split(predictions, np.cumsum([len(contexts) for contexts in blocks])[:-1])
    targets.prepare_pool()
    ranks = in_threads(
        lambda pair: ranks_with_each(pair[1], pair[0], targets, penalties), zip(blocks, found, strict=True)
    )
    return [_joined(each) for each in zip(*ranks, strict=True)]


def _joined(blocks: Sequence[Ranks]) -> Ranks:
    return {rule: np.concatenate([block[rule] for block in blocks]) for rule in EXCLUSIONS}


def given_predictions(predictions: Values, targets: Targets) -> Callable[[Contexts], Values]:
    """Return a function for `score_predictor` that looks up given predictions of all scored targets, (S, D)."""
    return lambda contexts: predictions[np.searchsorted(targets.scored.target_rows, contexts.target_rows)]
