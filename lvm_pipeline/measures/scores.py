"""Score a predictor on every target, block by block.

Shapes: S = targets, B = targets in a block, D = vector width.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.metrics import Closeness, Spread, SpreadMeter, Values, closeness
from lvm_pipeline.measures.retrieval import EXCLUSIONS, Exclusion, RetrievalScores, retrieval_scores, target_ranks
from lvm_pipeline.measures.targets import Contexts, Targets

TARGETS_IN_A_BLOCK = 1024


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
    ranks: dict[Exclusion, NDArray[np.int64]]  # rank of every target under each exclusion rule, shape (S,) each
    spread: Spread  # whether predictions depend on the context

    def means(self) -> MeanScores:
        retrieval: dict[Exclusion, RetrievalScores] = {
            rule: retrieval_scores(ranks) for rule, ranks in self.ranks.items()
        }
        return MeanScores(**self.closeness.means(), retrieval=retrieval)


def score_predictor(predict: Callable[[Contexts], Values], targets: Targets, *, train_mean: Values) -> Scores:
    """Score what `predict` says of each block of contexts, (B, D), called in the order of `targets.scored`."""
    meter = SpreadMeter(train_mean)
    measured, ranks = [], []
    for contexts in blocks_of(targets.scored):
        predictions = predict(contexts)
        wanted = np.asarray(targets.vectors[contexts.target_rows], np.float32)
        measured.append(closeness(predictions, wanted, train_mean))
        ranks.append(target_ranks(predictions, contexts, targets))
        meter.add(predictions, wanted)
    columns = [asdict(block) for block in measured]
    return Scores(
        closeness=Closeness(**{name: np.concatenate([column[name] for column in columns]) for name in columns[0]}),
        ranks={rule: np.concatenate([block[rule] for block in ranks]) for rule in EXCLUSIONS},
        spread=meter.spread(),
    )


def given_predictions(predictions: Values, targets: Targets) -> Callable[[Contexts], Values]:
    """Turn predictions for all scored targets, (S, D), into what `score_predictor` calls."""
    return lambda contexts: predictions[np.searchsorted(targets.scored.target_rows, contexts.target_rows)]


def blocks_of(contexts: Contexts) -> Iterator[Contexts]:
    """Cut contexts into blocks of neighbours."""
    for start in range(0, len(contexts), TARGETS_IN_A_BLOCK):
        yield contexts.part(slice(start, start + TARGETS_IN_A_BLOCK))
