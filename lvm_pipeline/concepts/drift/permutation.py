"""Permutation tests of several statistics at once.

Shapes: P = groupings, the actual one first; A = articles, K = statistics.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def groupings(num_before: int, num_after: int, *, num_permutations: int, seed: int) -> NDArray[np.bool_]:
    """Return the actual grouping and permuted ones, shape (P, A); True marks the second group."""
    actual = np.repeat([False, True], [num_before, num_after])
    rng = np.random.default_rng(seed)
    return np.stack([actual, *(rng.permutation(actual) for _ in range(num_permutations))])


class PermutationTest(NamedTuple):
    """Results for the actual grouping, each of shape (K,).

    `p_values` are of each statistic alone, `adjusted_p_values` of all together. `limits` are the largest values that
    pass.
    """

    passed: NDArray[np.bool_]
    p_values: NDArray[np.float64]
    adjusted_p_values: NDArray[np.float64]
    limits: NDArray[np.float64]


def permutation_test(values: NDArray[np.float64], *, false_alarm_rate: float) -> PermutationTest:
    """Test K statistics together, by the minP rule of Westfall and Young (1993).

    Values (P, K) are larger where the groups differ more; `false_alarm_rate` is the largest fraction of the permuted
    groupings that fail in any statistic.
    """
    from scipy.stats import rankdata

    num_groupings = len(values)
    num_as_large = num_groupings + 1 - rankdata(values, method="min", axis=0).astype(np.int64)
    smallest = num_as_large.min(axis=1)
    # A grouping fails if one of its statistics is among this many of the largest.
    num_extreme = np.sort(smallest)[int(false_alarm_rate * num_groupings)] - 1
    return PermutationTest(
        passed=num_as_large[0] > num_extreme,
        p_values=num_as_large[0] / num_groupings,
        adjusted_p_values=(smallest[:, None] <= num_as_large[0]).mean(axis=0),
        limits=np.sort(values, axis=0)[num_groupings - 1 - num_extreme],
    )
