"""Hubness correction: concepts that are close to many predictions rank lower.

In high dimensions some candidates are near to most predictions and crowd out the right ones. Cross-domain similarity
local scaling (Conneau et al., 2018, https://arxiv.org/abs/1710.04087) takes from each cosine half of the mean cosine
of the candidate to its nearest predictions. The predictions are those of the same predictor on train targets, so
nothing of the scored split is used.

Shapes: P = candidates in the pool, R = train predictions, D = vector width.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.targets import Contexts, Targets, blocks_of
from lvm_pipeline.measures.threads import in_threads
from lvm_pipeline.source.encoders.encoder import unit_length

NUM_NEIGHBOURS = 10
MAX_TRAIN_PREDICTIONS = 4096
CANDIDATES_IN_A_BLOCK = 1024


def train_sample(targets: Targets) -> Contexts:
    """Return at most 4096 train targets, evenly spaced."""
    every = -(-len(targets.train) // MAX_TRAIN_PREDICTIONS)
    return targets.train.part(slice(None, None, every))


def penalties_of(predict: Callable[[Contexts], NDArray[np.float32]], targets: Targets) -> NDArray[np.float32]:
    """Return the penalties of a predictor that maps contexts to predictions, shape (P,)."""
    predictions = np.concatenate(in_threads(predict, blocks_of(train_sample(targets))))
    return candidate_penalties(targets, predictions)


def candidate_penalties(targets: Targets, train_predictions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return half the mean cosine of each candidate to its nearest train predictions (R, D), shape (P,)."""
    directions = unit_length(train_predictions)
    num = min(NUM_NEIGHBOURS, len(directions))
    pool = targets.pool_directions

    def of_block(start: int) -> NDArray[np.float32]:
        cosines = pool[start : start + CANDIDATES_IN_A_BLOCK] @ directions.T
        return np.partition(cosines, len(directions) - num, axis=1)[:, -num:].mean(axis=1) / 2

    return np.concatenate(in_threads(of_block, range(0, len(pool), CANDIDATES_IN_A_BLOCK)))
