"""Ridge regressions from the last concepts to the next one, solved once from their normal equations.

Two maps share one Gram matrix:

- `ridge`: target = context . coefficients, shrunk towards zero;
- `ridge_residual`: the same regression on what the weighted sum of the context leaves over, so that it is shrunk
  towards that sum. Its weights, one a lag, are the least-squares ones.

How much to shrink is chosen by mean cosine on every fifth train article, never on what is scored.

Shapes: S = targets, L = lags, D = vector width, K = L * D.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from lvm_pipeline.measures.metrics import cosines

RIDGE = "ridge"
RIDGE_RESIDUAL = "ridge_residual"

TARGETS_IN_A_BLOCK = 2048
MAX_FITTED_TARGETS = 60_000
MAX_HELD_OUT_TARGETS = 4096
NUMBERS_CHOSEN_BY = 192  # of a vector, evenly spread: enough for a mean cosine that only has to rank penalties
HELD_OUT_ONE_IN = 5
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)  # times the mean square of a vector
FIRST_TRIED = {RIDGE: 4, RIDGE_RESIDUAL: 6}  # where the climb over the penalties begins


@dataclass(frozen=True, kw_only=True)
class AffineMap:
    """prediction = context (K,) . coefficients (K, D) + intercept (D,); `penalty` is what was chosen."""

    coefficients: NDArray[np.float32]
    intercept: NDArray[np.float32]
    penalty: float

    def predict(self, vectors: NDArray[np.float32], target_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Predict targets from the rows before them, shape (S, D)."""
        num_lags = len(self.coefficients) // vectors.shape[1]
        predictions = np.empty((len(target_rows), len(self.intercept)), np.float32)
        for start in range(0, len(target_rows), TARGETS_IN_A_BLOCK):
            part = slice(start, start + TARGETS_IN_A_BLOCK)
            predictions[part] = flat_contexts(vectors, target_rows[part], num_lags) @ self.coefficients + self.intercept
        return predictions


def flat_contexts(vectors: NDArray[np.float32], target_rows: NDArray[np.int64], num_lags: int) -> NDArray[np.float32]:
    """Return the last concepts before each target side by side, the latest last, shape (S, K)."""
    rows = target_rows[:, None] + np.arange(-num_lags, 0)
    return np.asarray(vectors[rows], np.float32).reshape(len(target_rows), -1)


def fit_ridges(
    vectors: NDArray[np.float32], target_rows: NDArray[np.int64], articles: NDArray[np.int64], *, num_lags: int
) -> dict[str, AffineMap]:
    """Fit both regressions.

    Args:
        vectors: All vectors, shape (N, D).
        target_rows: Train targets, ascending; at most 60,000 are used, evenly chosen.
        articles: Article of each train target, shape (S,).
        num_lags: L; every target has at least as many rows before it.

    Returns:
        The map of each name.
    """
    every = -(-len(target_rows) // MAX_FITTED_TARGETS)
    target_rows, articles = target_rows[::every], articles[::every]
    _, codes = np.unique(articles, return_inverse=True)
    is_held_out = codes % HELD_OUT_ONE_IN == 0
    kept = _NormalEquations(vectors.shape[1], num_lags)
    kept.add(vectors, target_rows[~is_held_out])
    penalties = dict.fromkeys((RIDGE, RIDGE_RESIDUAL), PENALTIES[FIRST_TRIED[RIDGE]])
    if kept.num:  # with one article only there is nothing to choose by
        penalties = _choose_penalties(kept, vectors, _evenly(target_rows[is_held_out], MAX_HELD_OUT_TARGETS))
    kept.add(vectors, target_rows[is_held_out])
    return {name: kept.solve({name: penalty}, np.float64)[name] for name, penalty in penalties.items()}


def _evenly(rows: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    return rows[:: -(-len(rows) // at_most)]


@dataclass
class _NormalEquations:
    """Sums over targets of x x', x y', x and y, for contexts x (K,) and targets y (D,)."""

    vector_dim: int
    num_lags: int
    num: int = 0
    gram: NDArray[np.float32] = field(init=False)
    cross: NDArray[np.float32] = field(init=False)
    sum_x: NDArray[np.float64] = field(init=False)
    sum_y: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        width = self.vector_dim * self.num_lags
        self.gram, self.cross = np.zeros((width, width), np.float32), np.zeros((width, self.vector_dim), np.float32)
        self.sum_x, self.sum_y = np.zeros(width), np.zeros(self.vector_dim)

    def add(self, vectors: NDArray[np.float32], target_rows: NDArray[np.int64]) -> None:
        """Add targets block by block; products are float32, which is where the time goes."""
        for start in range(0, len(target_rows), TARGETS_IN_A_BLOCK):
            rows = target_rows[start : start + TARGETS_IN_A_BLOCK]
            contexts, targets = flat_contexts(vectors, rows, self.num_lags), np.asarray(vectors[rows], np.float32)
            self.gram += contexts.T @ contexts
            self.cross += contexts.T @ targets
            self.sum_x += contexts.sum(axis=0, dtype=np.float64)
            self.sum_y += targets.sum(axis=0, dtype=np.float64)
            self.num += len(rows)

    def solve(
        self, penalties: Mapping[str, float], dtype: type[np.floating], *, numbers: slice = slice(None)
    ) -> dict[str, AffineMap]:
        """Return the maps of the names given, to some numbers of the vector; all must have one penalty."""
        (penalty,) = set(penalties.values())
        mean_x, mean_y = self.sum_x / self.num, self.sum_y[numbers] / self.num
        system = self.gram.astype(dtype)
        system -= np.outer(mean_x.astype(dtype), (self.num * mean_x).astype(dtype))
        system.flat[:: len(system) + 1] += penalty * self._mean_square()
        factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        rights = {name: self._right_side(name, penalty, dtype)[:, numbers] for name in penalties}
        found = cho_solve(factor, np.concatenate(list(rights.values()), axis=1), overwrite_b=True, check_finite=False)
        maps = {}
        for name, coefficients in zip(rights, np.split(found, len(rights), axis=1), strict=True):
            coefficients = np.ascontiguousarray(coefficients, np.float32)
            intercept = (mean_y - mean_x @ coefficients).astype(np.float32)
            maps[name] = AffineMap(coefficients=coefficients, intercept=intercept, penalty=penalty)
        return maps

    def _right_side(self, name: str, penalty: float, dtype: type[np.floating]) -> NDArray[np.floating]:
        """Shrinking the coefficients C towards P instead of 0 solves (G + p I) C = x y' + p P."""
        right = self.cross.astype(dtype)
        right -= np.outer(self.sum_x.astype(dtype), (self.sum_y / self.num).astype(dtype))
        if name == RIDGE_RESIDUAL:
            prior = penalty * self._mean_square() * np.repeat(self.lag_weights(), self.vector_dim)
            right[np.arange(len(right)), np.arange(len(right)) % self.vector_dim] += prior.astype(dtype)
        return right

    def lag_weights(self) -> NDArray[np.float64]:
        """Return the least-squares weights of the sum over the context, oldest concept first, shape (L,)."""
        lags, width = self.num_lags, self.vector_dim
        products = np.einsum("idjd->ij", self.gram.reshape(lags, width, lags, width), dtype=np.float64)
        with_target = np.einsum("idd->i", self.cross.reshape(lags, width, width), dtype=np.float64)
        return np.linalg.lstsq(products, with_target, rcond=None)[0]

    def _mean_square(self) -> float:
        """Return the mean squared length of a context concept, the unit of the penalties."""
        return max(float(np.trace(self.gram, dtype=np.float64)) / (self.num * self.num_lags), 1e-12)


def _choose_penalties(
    equations: _NormalEquations, vectors: NDArray[np.float32], held_out_rows: NDArray[np.int64]
) -> dict[str, float]:
    """Climb the penalties from a usual one to the best neighbour until none is better, for each map."""
    numbers = slice(None, None, max(1, vectors.shape[1] // NUMBERS_CHOSEN_BY))
    targets = np.asarray(vectors[held_out_rows, numbers], np.float32)
    scores: dict[int, dict[str, float]] = {}

    def score(index: int, name: str) -> float:
        if not 0 <= index < len(PENALTIES):
            return -np.inf
        if index not in scores:
            penalties = dict.fromkeys(FIRST_TRIED, PENALTIES[index])
            maps = equations.solve(penalties, np.float32, numbers=numbers)
            scores[index] = {
                each: float(cosines(found.predict(vectors, held_out_rows), targets).mean())
                for each, found in maps.items()
            }
        return scores[index][name]

    return {name: PENALTIES[_climb(lambda i, name=name: score(i, name), start)] for name, start in FIRST_TRIED.items()}


def _climb(score: Callable[[int], float], start: int) -> int:
    best = start
    while True:
        better = max((best - 1, best, best + 1), key=score)
        if score(better) <= score(best):
            return best
        best = better
