"""Slide a window over the concepts of each article.

Shapes: N = concepts in the table, S = sequences, T = context length in concepts.
"""

import numpy as np
from numpy.typing import NDArray


def window_starts(article_indices: NDArray[np.integer], context_length: int) -> NDArray[np.int64]:
    """Find every window that stays inside one article.

    A window is T context concepts in a row followed by one target concept. Windows advance by one
    concept, so an article of n concepts gives max(0, n - T) of them.

    Args:
        article_indices: Article of each concept, shape (N,), in reading order: an article is one unbroken run.
        context_length: T, at least 1.

    Returns:
        Row of each window's first context concept, shape (S,), ascending. The context is rows
        start to start + T - 1, the target is row start + T.

    Raises:
        ValueError: If `context_length` is below 1, or an article comes in two runs.

    Example:
        >>> window_starts(np.array([7, 7, 7, 9, 9]), 2)
        array([0])
    """
    if context_length < 1:
        raise ValueError(f"context_length must be at least 1, got {context_length}")
    num_concepts = len(article_indices)
    if num_concepts == 0:
        return np.empty(0, dtype=np.int64)
    run_starts = np.concatenate([[0], np.flatnonzero(article_indices[1:] != article_indices[:-1]) + 1])
    if len(np.unique(article_indices[run_starts])) != len(run_starts):
        raise ValueError("article_indices is not in reading order: an article comes in two runs")
    run_ends = np.append(run_starts[1:], num_concepts)
    end_of_row = np.repeat(run_ends, run_ends - run_starts)
    return np.flatnonzero(np.arange(num_concepts) + context_length < end_of_row)
