"""Sample the train targets that a regression is fitted on."""

import numpy as np
from numpy.typing import NDArray

TARGETS_IN_A_RUN = 64  # neighbours, whose contexts overlap
MAX_FITTED_TARGETS = 60_000  # of the ridges and the linear forecast
FEWEST_ARTICLES = 50  # in a sample of whole articles; instead of fewer, runs of targets are sampled

Rows = NDArray[np.int64]


def is_sampled(articles: Rows, *, at_most: int) -> NDArray[np.bool_]:
    """Choose about `at_most` targets, given the article of each, (S,): whole articles, evenly spaced.

    Contexts of neighbours overlap, so whole articles cost less than as many targets of all articles, and fits on them
    are about as good.
    """
    every = -(-len(articles) // at_most)
    units = np.unique(articles, return_inverse=True)[1]
    if every > 1 and units.max() + 1 < FEWEST_ARTICLES * every:
        units = np.arange(len(articles)) // TARGETS_IN_A_RUN
    return units % every == 0
