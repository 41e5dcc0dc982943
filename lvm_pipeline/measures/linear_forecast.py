"""The linear forecast: the strongest predictor that can be solved in closed form, in seconds.

A context is summarised by K decayed means (decay 0 is the last concept, decay 1 the plain mean) and its first concept.
Vectors are rotated into the eigenbasis of the train covariance, where

    forecast_d = sum_k weights_kd summary_kd  +  inputs . low_rank_d  +  constant_d

- `weights`: each direction d has its own, by ridge towards the least-squares weights that all directions share;
- `low_rank`: a ridge of what is left on the leading directions of the last concept, a decayed mean and the plain mean.

Both penalties have the highest mean cosine in cross-validation over train articles.

Shapes: N = concepts in the table, S = targets, B = targets in a block, D = vector width, K = decays, P = inputs of the
low-rank part.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.measures.eigenbasis import context_summaries, eigenbasis, rotated_spans
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.samples import MAX_FITTED_TARGETS, TARGETS_IN_A_RUN, is_sampled
from lvm_pipeline.measures.threads import in_threads
from lvm_pipeline.measures.weighted_means import best_step

DECAYS = (0.0, 0.3, 0.5, 0.7, 0.85, 0.93, 1.0)
INPUTS = (0, 3, 6)  # of DECAYS: last concept, decayed mean, plain mean
LEADING_DIRECTIONS = 256
PENALTIES = tuple(float(penalty) for penalty in np.geomspace(1.0, 1e6, 13))  # times the mean square of a summary
FIRST_TRIED = 9  # index where the search over the penalties begins
PENALTY_OF_ONE_ARTICLE = PENALTIES[10]  # where there is nothing to cross-validate on
NUM_FOLDS = 5
SMALLEST_SQUARE = 1e-12  # of constant vectors, so that their system can still be solved
STABILISER = 1e-6  # summaries of short contexts depend on each other linearly
MAX_WEIGHTED_TARGETS = 30_000  # of the fit of the weights, which are few
TARGETS_IN_A_BLOCK = 1024

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LinearForecast:
    """The fitted arrays; all but `basis` and `decays` are in the eigenbasis."""

    basis: Vectors  # eigenvectors of the train covariance in columns, by descending variance, (D, D)
    decays: Vectors  # of the means, (K,)
    # of each summary in each direction, (K + 1, D): the means in the order of `decays`, then the first concept
    weights: Vectors
    inputs: tuple[int, ...]  # which of the summaries the low-rank part reads, in this order
    low_rank: Vectors  # from the first P / len(inputs) directions of each of the `inputs`, side by side, (P, D)
    constant: Vectors  # (D,)
    penalties: tuple[float, float]  # the selected penalties of `weights` and `low_rank`

    def predict(self, vectors: Vectors, first_rows: Rows, target_rows: Rows) -> Vectors:
        """Predict targets, (S, D), from the rows `first_row` up to, not including, `target_row` of vectors (N, D).

        Target rows ascend. Predictions are not normalised.
        """
        predictions = np.empty((len(target_rows), len(self.constant)), np.float32)
        for part in _parts(len(target_rows)):
            summaries = context_summaries(vectors, first_rows[part], target_rows[part], self.basis, self.decays)
            predictions[part] = self._forecast(summaries) @ self.basis.T
        return predictions

    def _forecast(self, summaries: Vectors) -> Vectors:
        leading = _Inputs(summaries=self.inputs, num_leading=len(self.low_rank) // len(self.inputs)).of(summaries)
        return np.einsum("kbd,kd->bd", summaries, self.weights) + leading @ self.low_rank + self.constant


def fit_linear_forecast(
    vectors: Vectors,
    *,
    train_rows: Rows,
    first_rows: Rows,
    target_rows: Rows,
    articles: Rows,
    decays: Sequence[float] = DECAYS,
    inputs: tuple[int, ...] = INPUTS,
    leading_directions: int = LEADING_DIRECTIONS,
) -> LinearForecast:
    """Fit the linear forecast on train articles.

    Args:
        vectors: All vectors, (N, D), may be memory-mapped.
        train_rows: Rows of all concepts of train articles; the eigenbasis is theirs.
        first_rows: First row of each context, (S,).
        target_rows: Row of each train target, ascending, (S,); about 60,000 at most are used, of articles evenly
            spaced, and 30,000 for the weights.
        articles: Article of each train target, (S,).
        decays: Of the means, (K,).
        inputs: Which of the means the low-rank part reads.
        leading_directions: In how many directions the low-rank part reads them, at most D.

    Raises:
        ValueError: If there is no target.
    """
    if not len(target_rows):
        raise ValueError("there is no target to fit on")
    basis = eigenbasis(vectors, train_rows)
    few, many = (is_sampled(articles, at_most=each) for each in (MAX_WEIGHTED_TARGETS, MAX_FITTED_TARGETS))
    is_used = few | many
    first_rows, target_rows, articles = first_rows[is_used], target_rows[is_used], articles[is_used]
    rotated = rotated_spans(vectors, first_rows, target_rows, basis)
    everything = _Fold(
        rotated=rotated.vectors,
        first_rows=rotated.indices(first_rows),
        target_rows=rotated.indices(target_rows),
        decays=np.asarray(decays, np.float32),
    )
    inputs_read = _Inputs(summaries=inputs, num_leading=min(leading_directions, len(basis)))
    weights, constant, penalty = _fit_weights(_folds(everything, articles, few[is_used]))
    folds = _folds(everything, articles, many[is_used])
    low_rank, shift, low_rank_penalty = _fit_low_rank(folds, weights, constant, inputs_read)
    return LinearForecast(
        basis=basis,
        decays=everything.decays,
        weights=weights,
        inputs=inputs,
        low_rank=low_rank,
        constant=constant + shift,
        penalties=(penalty, low_rank_penalty),
    )


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What the low-rank part reads: the first directions of some summaries."""

    summaries: tuple[int, ...]
    num_leading: int

    def of(self, summaries: Vectors) -> Vectors:
        """Return them side by side, (B, P)."""
        return np.concatenate([summaries[index, :, : self.num_leading] for index in self.summaries], axis=1)


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """The train targets of some articles; rows are those of `rotated`, which is in the eigenbasis."""

    rotated: Vectors
    first_rows: Rows
    target_rows: Rows
    decays: Vectors

    def blocks(self) -> Iterator[tuple[Vectors, Vectors]]:
        """Yield summaries (K + 1, B, D) and targets (B, D) in the eigenbasis."""
        for part in _parts(len(self.target_rows)):
            yield self._part(self.first_rows[part], self.target_rows[part])

    def sample(self) -> tuple[Vectors, Vectors]:
        """Return the same of about 1024 targets, in runs evenly spaced: enough to rank penalties by mean cosine."""
        every = -(-len(self.target_rows) // TARGETS_IN_A_BLOCK)
        chosen = np.arange(len(self.target_rows)) // TARGETS_IN_A_RUN % every == 0
        return self._part(self.first_rows[chosen], self.target_rows[chosen])

    def _part(self, first_rows: Rows, target_rows: Rows) -> tuple[Vectors, Vectors]:
        summaries = context_summaries(self.rotated, first_rows, target_rows, None, self.decays)
        return summaries, self.rotated[target_rows]


def _folds(everything: _Fold, articles: Rows, is_used: NDArray[np.bool_]) -> list[_Fold]:
    """Cut the used targets, given the article of each, into folds of whole articles."""
    used = np.flatnonzero(is_used)
    fold_of_target = np.unique(articles[used], return_inverse=True)[1] % NUM_FOLDS
    chosen = (used[fold_of_target == fold] for fold in np.unique(fold_of_target))
    return [
        replace(everything, first_rows=everything.first_rows[each], target_rows=everything.target_rows[each])
        for each in chosen
    ]


@dataclass
class _Sums:
    """Sums over targets that a ridge of y (D) on x needs: of x x', x y', x and y, and how many there are.

    `xx` is (D, X, X), `xy` and `x` (X, D) where each direction has its own x; else (X, X), (X, D) and (X,).
    """

    xx: Numbers
    xy: Numbers
    x: Numbers
    y: Numbers
    num: int = 0

    def add_moments(self, sum_x: Numbers, targets: Vectors) -> None:
        self.x += sum_x
        self.y += targets.sum(axis=0, dtype=np.float64)
        self.num += len(targets)


Solve = Callable[[_Sums, float], tuple[Numbers, Numbers]]  # sums and penalty -> coefficients and constant


def _fit_weights(folds: list[_Fold]) -> tuple[Vectors, Vectors, float]:
    """Return weights (K + 1, D) and constant (D,) of each direction, and the penalty."""
    samples = in_threads(_Fold.sample, folds)

    def cosine(fold: int, weights: Numbers, constant: Numbers) -> float:
        summaries, targets = samples[fold]
        predictions = np.einsum("kbd,kd->bd", summaries, weights.astype(np.float32)) + constant
        return float(cosines(predictions, targets).sum())

    return _best_fit(in_threads(_sums_of_directions, folds), _solve_directions, cosine)


def _sums_of_directions(fold: _Fold) -> _Sums:
    dim, num = fold.rotated.shape[1], len(fold.decays) + 1
    sums = _Sums(np.zeros((dim, num, num)), np.zeros((num, dim)), np.zeros((num, dim)), np.zeros(dim))
    for summaries, targets in fold.blocks():
        for first in range(num):
            products = np.einsum("bd,kbd->dk", summaries[first], summaries[first:])
            sums.xx[:, first, first:] += products
            sums.xx[:, first + 1 :, first] += products[:, 1:]
        sums.xy += np.einsum("kbd,bd->kd", summaries, targets)
        sums.add_moments(summaries.sum(axis=1, dtype=np.float64), targets)
    return sums


def _solve_directions(sums: _Sums, penalty: float) -> tuple[Numbers, Numbers]:
    """Return weights (K + 1, D) by ridge towards those that all directions share, and the constant (D,)."""
    num_summaries, dim = sums.xy.shape
    mean_x, mean_y = sums.x / sums.num, sums.y / sums.num
    xx = sums.xx - sums.num * np.einsum("kd,ld->dkl", mean_x, mean_x)
    xy = (sums.xy - sums.num * mean_x * mean_y).T
    identity, total = np.eye(num_summaries), xx.sum(axis=0)
    shared = np.linalg.lstsq(total + STABILISER * np.trace(total) * identity, xy.sum(axis=0))[0]
    scale = max(float(np.einsum("dkk->", sums.xx)) / (sums.num * num_summaries * dim), SMALLEST_SQUARE)
    change = np.linalg.solve(xx + penalty * scale * identity, (xy - xx @ shared)[..., None])[..., 0]
    weights = (shared + change).T
    return weights, mean_y - (weights * mean_x).sum(axis=0)


def _fit_low_rank(
    folds: list[_Fold], weights: Vectors, constant: Vectors, inputs: _Inputs
) -> tuple[Vectors, Vectors, float]:
    """Return the low-rank matrix (P, D), what it adds to the constant (D,), and the penalty."""
    samples = []
    for summaries, targets in in_threads(_Fold.sample, folds):
        predictions = np.einsum("kbd,kd->bd", summaries, weights) + constant
        samples.append((inputs.of(summaries), predictions, targets))

    def cosine(fold: int, low_rank: Numbers, shift: Numbers) -> float:
        leading, predictions, targets = samples[fold]
        return float(cosines(predictions + leading @ low_rank.astype(np.float32) + shift, targets).sum())

    return _best_fit(
        in_threads(lambda fold: _sums_of_residual(fold, weights, constant, inputs), folds), _solve_ridge, cosine
    )


def _sums_of_residual(fold: _Fold, weights: Vectors, constant: Vectors, inputs: _Inputs) -> _Sums:
    num, dim = inputs.num_leading * len(inputs.summaries), len(constant)
    sums = _Sums(np.zeros((num, num)), np.zeros((num, dim)), np.zeros(num), np.zeros(dim))
    for summaries, targets in fold.blocks():
        residual = targets - constant - np.einsum("kbd,kd->bd", summaries, weights)
        leading = inputs.of(summaries)
        sums.xx += leading.T @ leading
        sums.xy += leading.T @ residual
        sums.add_moments(leading.sum(axis=0, dtype=np.float64), residual)
    return sums


def _solve_ridge(sums: _Sums, penalty: float) -> tuple[Numbers, Numbers]:
    from scipy.linalg import cho_factor, cho_solve

    mean_x, mean_y = sums.x / sums.num, sums.y / sums.num
    system = sums.xx - sums.num * np.outer(mean_x, mean_x)
    scale = max(float(np.trace(sums.xx)) / (sums.num * len(system)), SMALLEST_SQUARE)
    system.flat[:: len(system) + 1] += penalty * scale
    factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    coefficients = cho_solve(factor, sums.xy - sums.num * np.outer(mean_x, mean_y), check_finite=False)
    return coefficients, mean_y - mean_x @ coefficients


def _best_fit(
    folds: list[_Sums], solve: Solve, cosine: Callable[[int, Numbers, Numbers], float]
) -> tuple[Vectors, Vectors, float]:
    """Solve for all folds with the penalty whose fits have the highest cosine on the folds they left out."""
    penalty = PENALTY_OF_ONE_ARTICLE
    if len(folds) > 1:
        others = [_total(folds[:index] + folds[index + 1 :]) for index in range(len(folds))]

        def score(step: int) -> float:
            return sum(in_threads(lambda each: cosine(each[0], *solve(each[1], PENALTIES[step])), enumerate(others)))

        penalty = PENALTIES[best_step(score, start=FIRST_TRIED, last=len(PENALTIES) - 1)]
    coefficients, constant = solve(_total(folds), penalty)
    return coefficients.astype(np.float32), constant.astype(np.float32), penalty


def _total(folds: list[_Sums]) -> _Sums:
    return _Sums(
        xx=np.sum([fold.xx for fold in folds], axis=0),
        xy=np.sum([fold.xy for fold in folds], axis=0),
        x=np.sum([fold.x for fold in folds], axis=0),
        y=np.sum([fold.y for fold in folds], axis=0),
        num=sum(fold.num for fold in folds),
    )


def _parts(num: int) -> Iterator[slice]:
    for start in range(0, num, TARGETS_IN_A_BLOCK):
        yield slice(start, start + TARGETS_IN_A_BLOCK)
