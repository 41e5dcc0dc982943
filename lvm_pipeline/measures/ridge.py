"""Ridge regressions from the last concepts to the next one, solved from one Gram matrix.

Its block of lags i + 1 and j + 1 sums the same products as that of lags i and j, but for one row at both ends of each
run of targets. So only the products of the targets with each lag are summed over all targets.

- `ridge`: target = context . coefficients, shrunk towards zero;
- `ridge_residual`: shrunk towards the weighted sum of the context with least-squares weights, one per lag.

The penalty is selected by mean cosine on every fifth train article, never on the scored split.

Shapes: S = targets, L = lags, D = vector width, K = L * D.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.samples import MAX_FITTED_TARGETS, is_sampled
from lvm_pipeline.measures.weighted_means import best_step

RIDGE = "ridge"
RIDGE_RESIDUAL = "ridge_residual"

TARGETS_IN_A_BLOCK = 2048
MAX_HELD_OUT_TARGETS = 4096
NUMBERS_CHOSEN_BY = 192  # dimensions of a vector, evenly spaced: enough to rank penalties by mean cosine
HELD_OUT_ONE_IN = 5
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)  # times the mean square of a vector
FIRST_TRIED = {RIDGE: 4, RIDGE_RESIDUAL: 6}  # index where the search over the penalties begins

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class AffineMap:
    """prediction = context (K,) . coefficients (K, D) + intercept (D,); `penalty` is the selected one."""

    coefficients: Vectors
    intercept: Vectors
    penalty: float

    def predict(self, vectors: Vectors, target_rows: Rows) -> Vectors:
        """Predict targets from the rows before them, shape (S, D)."""
        num_lags = len(self.coefficients) // vectors.shape[1]
        predictions = np.empty((len(target_rows), len(self.intercept)), np.float32)
        for start in range(0, len(target_rows), TARGETS_IN_A_BLOCK):
            part = slice(start, start + TARGETS_IN_A_BLOCK)
            predictions[part] = flat_contexts(vectors, target_rows[part], num_lags) @ self.coefficients + self.intercept
        return predictions


def flat_contexts(vectors: Vectors, target_rows: Rows, num_lags: int) -> Vectors:
    """Return the last concepts before each target side by side, the latest last, shape (S, K)."""
    rows = target_rows[:, None] + np.arange(-num_lags, 0)
    return np.asarray(vectors[rows], np.float32).reshape(len(target_rows), -1)


def fit_ridges(vectors: Vectors, target_rows: Rows, articles: Rows, *, num_lags: int) -> dict[str, AffineMap]:
    """Fit both regressions on train targets, ascending; about 60,000 at most are used, of articles evenly spaced.

    Every target has at least `num_lags` (L) rows before it; `articles` is the article of each, (S,).
    """
    is_used = is_sampled(articles, at_most=MAX_FITTED_TARGETS)
    target_rows, articles = target_rows[is_used], articles[is_used]
    is_held_out = np.unique(articles, return_inverse=True)[1] % HELD_OUT_ONE_IN == 0
    equations = _NormalEquations(vectors.shape[1], num_lags)
    equations.add(vectors, target_rows[~is_held_out])
    penalties = dict.fromkeys(FIRST_TRIED, PENALTIES[FIRST_TRIED[RIDGE]])
    if equations.num:  # a single article leaves nothing to select on
        held_out = target_rows[is_held_out]
        penalties = _select_penalties(equations, vectors, held_out[:: -(-len(held_out) // MAX_HELD_OUT_TARGETS)])
    equations.add(vectors, target_rows[is_held_out])
    return {name: equations.solve((name,), penalty, np.float64)[name] for name, penalty in penalties.items()}


@dataclass
class _NormalEquations:
    """Sums over targets of x x', x y', x and y, for contexts x (K,) and targets y (D,)."""

    vector_dim: int
    num_lags: int
    num: int = 0
    gram: Vectors = field(init=False)
    cross: Vectors = field(init=False)
    sum_x: NDArray[np.float64] = field(init=False)
    sum_y: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        width = self.vector_dim * self.num_lags
        self.gram, self.cross = np.zeros((width, width), np.float32), np.zeros((width, self.vector_dim), np.float32)
        self.sum_x, self.sum_y = np.zeros(width), np.zeros(self.vector_dim)

    def add(self, vectors: Vectors, target_rows: Rows) -> None:
        """Add targets, ascending: the sums of lags i + 1, j + 1 follow from those of lags i, j (lag 0: the target)."""
        width, num_lags = self.vector_dim, self.num_lags
        gram = self.gram.reshape(num_lags, width, num_lags, width)  # in reading order: lag L is the first
        cross = self.cross.reshape(num_lags, width, width)
        before, ends = np.setdiff1d(target_rows - 1, target_rows), np.setdiff1d(target_rows, target_rows - 1)
        for apart in range(num_lags + 1):
            products = _products(vectors, target_rows, apart)
            if apart:
                cross[num_lags - apart] += products.T
            for lag in range(1, num_lags - apart + 1):
                products += _products(vectors, before - lag + 1, apart) - _products(vectors, ends - lag + 1, apart)
                gram[num_lags - lag, :, num_lags - lag - apart] += products
                if apart:
                    gram[num_lags - lag - apart, :, num_lags - lag] += products.T
        for lag in range(1, num_lags + 1):
            self.sum_x[width * (num_lags - lag) : width * (num_lags - lag + 1)] += _sum(vectors, target_rows - lag)
        self.sum_y += _sum(vectors, target_rows)
        self.num += len(target_rows)

    def solve(
        self, names: tuple[str, ...], penalty: float, dtype: type[np.floating], *, numbers: slice = slice(None)
    ) -> dict[str, AffineMap]:
        """Return the named maps to some dimensions of the vector; they share one factorisation."""
        mean_x, mean_y = self.sum_x / self.num, self.sum_y[numbers] / self.num
        mean_square = max(float(np.trace(self.gram, dtype=np.float64)) / (self.num * self.num_lags), 1e-12)
        system = self.gram.astype(dtype)
        system -= np.outer(mean_x.astype(dtype), (self.num * mean_x).astype(dtype))
        system.flat[:: len(system) + 1] += penalty * mean_square
        factor = cho_factor(system.T, overwrite_a=True, check_finite=False)  # by columns, so that it is not copied
        right = self.cross.astype(dtype)
        right -= np.outer(self.sum_x.astype(dtype), (self.sum_y / self.num).astype(dtype))
        maps = {}
        for name in names:
            if name == RIDGE_RESIDUAL:  # shrinking C towards P instead of 0 solves (G + p I) C = x y' + p P
                prior = penalty * mean_square * np.repeat(self._lag_weights(), self.vector_dim)
                right[np.arange(len(right)), np.arange(len(right)) % self.vector_dim] += prior.astype(dtype)
            found = cho_solve(factor, right[:, numbers], check_finite=False)
            coefficients = np.ascontiguousarray(found, np.float32)
            intercept = (mean_y - mean_x @ coefficients).astype(np.float32)
            maps[name] = AffineMap(coefficients=coefficients, intercept=intercept, penalty=penalty)
        return maps

    def _lag_weights(self) -> NDArray[np.float64]:
        """Return the least-squares weights of the sum over the context, oldest concept first, shape (L,)."""
        lags, width = self.num_lags, self.vector_dim
        products = np.einsum("idjd->ij", self.gram.reshape(lags, width, lags, width), dtype=np.float64)
        with_target = np.einsum("idd->i", self.cross.reshape(lags, width, width), dtype=np.float64)
        return np.linalg.lstsq(products, with_target, rcond=None)[0]


def _products(vectors: Vectors, rows: Rows, apart: int) -> Vectors:
    """Return the sum of v_r v_s' over rows r, where s lies `apart` rows before r, (D, D)."""
    total = np.zeros((vectors.shape[1], vectors.shape[1]), np.float32)
    for start in range(0, len(rows), TARGETS_IN_A_BLOCK):
        block = rows[start : start + TARGETS_IN_A_BLOCK]
        left, right = (np.asarray(vectors[chosen], np.float32) for chosen in (block, block - apart))
        total += left.T @ right
    return total


def _sum(vectors: Vectors, rows: Rows) -> NDArray[np.float64]:
    """Return the sum of the vectors of some rows, (D,)."""
    total = np.zeros(vectors.shape[1])
    for start in range(0, len(rows), TARGETS_IN_A_BLOCK):
        total += np.asarray(vectors[rows[start : start + TARGETS_IN_A_BLOCK]], np.float32).sum(axis=0, dtype=np.float64)
    return total


def _select_penalties(equations: _NormalEquations, vectors: Vectors, held_out_rows: Rows) -> dict[str, float]:
    """Return the penalty of each map with the highest mean cosine on the rows held out."""
    numbers = slice(None, None, max(1, vectors.shape[1] // NUMBERS_CHOSEN_BY))
    targets = np.asarray(vectors[held_out_rows, numbers], np.float32)
    scores: dict[int, dict[str, float]] = {}

    def score(index: int, name: str) -> float:
        if index not in scores:
            maps = equations.solve(tuple(FIRST_TRIED), PENALTIES[index], np.float32, numbers=numbers)
            scores[index] = {
                each: float(cosines(found.predict(vectors, held_out_rows), targets).mean())
                for each, found in maps.items()
            }
        return scores[index][name]

    last = len(PENALTIES) - 1
    return {
        name: PENALTIES[best_step(lambda index, name=name: score(index, name), start=start, last=last)]
        for name, start in FIRST_TRIED.items()
    }
