"""How close each prediction is to its target.

Shapes: S = targets, D = vector width.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.source.encoders.encoder import unit_length

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """Five measures of every prediction, each of shape (S,)."""

    cosine: Values  # cosine of prediction and target; 0 where either is zero
    # cosine after the mean train vector is subtracted from both, so that the direction all vectors share does not count
    centred_cosine: Values
    mse: Values  # squared difference, mean over the D numbers
    l2: Values  # length of the difference
    norm_ratio: Values  # length of the prediction over length of the target; 0 where the target is zero

    def means(self) -> dict[str, float]:
        return {name: float(np.mean(values, dtype=np.float64)) for name, values in asdict(self).items()}


def closeness(predictions: Values, targets: Values, train_mean: Values) -> Closeness:
    """Measure predictions (S, D) against targets (S, D), with the mean train vector (D,)."""
    lengths, target_lengths = np.linalg.norm(predictions, axis=1), np.linalg.norm(targets, axis=1)
    squares = np.square(predictions - targets).sum(axis=1)
    return Closeness(
        cosine=cosines(predictions, targets),
        centred_cosine=cosines(predictions - train_mean, targets - train_mean),
        mse=squares / targets.shape[1],
        l2=np.sqrt(squares),
        norm_ratio=np.divide(lengths, target_lengths, out=np.zeros_like(lengths), where=target_lengths > 0),
    )


def cosines(left: Values, right: Values) -> Values:
    """Return the cosine of each pair of rows, shape (S,); 0 where either is zero."""
    return np.einsum("sd,sd->s", unit_length(left), unit_length(right))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Whether predictions still depend on their context, or have collapsed to one vector.

    All vectors are scaled to length one first. Variance is the mean squared distance from the mean.
    """

    cosine_to_mean: float  # mean cosine of the predictions to the mean train vector
    prediction_variance: float  # variance of the predictions
    target_variance: float  # variance of the targets

    @property
    def variance_fraction(self) -> float:
        """Variance of the predictions over that of the targets; 1 where the targets do not vary either."""
        return self.prediction_variance / self.target_variance if self.target_variance > 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class SpreadSums:
    """What one block of predictions adds to a `SpreadMeter`."""

    num: int
    cosine: float  # to the mean train vector, summed
    sums: NDArray[np.float64]  # of the predictions and of the targets, (2, D)
    squares: NDArray[np.float64]  # of their numbers, (2,)


class SpreadMeter:
    """Measures `Spread` block by block."""

    def __init__(self, train_mean: Values):
        self._mean_direction = unit_length(train_mean)
        self._num = 0
        self._cosine = 0.0
        self._sums = np.zeros((2, len(train_mean)))
        self._squares = np.zeros(2)

    def add(self, predictions: Values, targets: Values) -> None:
        self.add_sums(self.sums_of(predictions, targets))

    def sums_of(self, predictions: Values, targets: Values) -> SpreadSums:
        """Return what `add_sums` adds for a block; several threads may call it."""
        predicted, wanted = unit_length(predictions), unit_length(targets)
        return SpreadSums(
            num=len(predictions),
            cosine=float((predicted @ self._mean_direction).sum(dtype=np.float64)),
            sums=np.stack([each.sum(axis=0, dtype=np.float64) for each in (predicted, wanted)]),
            squares=np.stack([np.square(each).sum(dtype=np.float64) for each in (predicted, wanted)]),
        )

    def add_sums(self, block: SpreadSums) -> None:
        self._num += block.num
        self._cosine += block.cosine
        self._sums += block.sums
        self._squares += block.squares

    def spread(self) -> Spread:
        variances = self._squares / self._num - np.square(self._sums / self._num).sum(axis=1)
        return Spread(
            cosine_to_mean=self._cosine / self._num,
            prediction_variance=max(0.0, float(variances[0])),
            target_variance=max(0.0, float(variances[1])),
        )


def spread_of(predictions: Values, targets: Values, train_mean: Values) -> Spread:
    """Measure the spread of predictions (S, D) and targets (S, D), with the mean train vector (D,)."""
    meter = SpreadMeter(train_mean)
    meter.add(predictions, targets)
    return meter.spread()
