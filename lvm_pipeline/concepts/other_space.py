"""Find vectors that come from another encoder, by their direction.

Vectors of one encoder have most of their length along few directions. To these directions, vectors of another encoder
look like random ones. Unlike the comparison of texts with vectors, this finds single vectors: each is scored by the
likelihood of its direction, scaled so that random directions have 0 and the median vector has 1 (see
`space_fingerprint`). The directions are fitted to the vectors that fit best, which leaves out those of another encoder,
and to the other half of the vectors, so that no vector influences its own score.

Shapes: n = vectors, D = vector width, K = directions, C = coordinates of a vector that are looked at.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.source.space_fingerprint import leading_directions, log_likelihoods

MIN_VECTORS = 200
MAX_VECTORS = 6_000  # that directions are made from
MAX_COORDINATES = 1024  # evenly spread ones of wider vectors are enough
NUM_DIRECTIONS = 256
MAX_SHARE = 1 / 3  # of the coordinates that are directions
MIN_PER_DIRECTION = 3  # vectors
FIRST_DIRECTIONS = 1 / 8  # of the number of directions, in the first round: too few for those of another encoder
NUM_ROUNDS, MORE_ROUNDS = 3, 5
FEW_VECTORS = 3_000  # that need more rounds
KEPT_SHARE = 0.7  # of the vectors, for the next round
NUM_RANDOM = 1024
LIMIT_DEVIATIONS = 6.0  # of the scores of random directions
BESIDE_LIMIT = 0.1  # most vectors just above the limit, relative to those below: there must be a gap
MAX_LIMIT = 0.5
BLOCK = 8192

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Where the vectors of a table point."""

    coordinates: slice  # of a vector that are looked at, C of them
    leading: Vectors  # (K, C)
    parts: NDArray[np.float64]  # mean square along each, (K,)
    rest: float  # the same along any other direction
    random: float  # mean log-likelihood of random directions
    own: float  # median of the vectors
    deviation: float  # of the scores of random directions

    @property
    def limit(self) -> float:
        """Score below which a vector points where random directions do."""
        return LIMIT_DEVIATIONS * self.deviation

    def scores(self, vectors: Vectors) -> NDArray[np.float32]:
        """Return how well each vector (n, D) fits: 1 as the median, 0 as a random direction, (n,)."""
        blocks = [
            self._scores(vectors[start : start + BLOCK, self.coordinates]) for start in range(0, len(vectors), BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.empty(0, np.float32)

    def _scores(self, vectors: Vectors) -> NDArray[np.float32]:
        found = log_likelihoods(vectors, self.leading, self.parts, self.rest)
        return ((found - self.random) / max(self.own - self.random, 1e-9)).astype(np.float32)

    def is_apart(self, scores: NDArray[np.float32]) -> bool:
        """Whether the scores fall into those below the limit and others, with a gap between."""
        num_below = np.count_nonzero(scores < self.limit)
        num_beside = np.count_nonzero((scores >= self.limit) & (scores < 1.5 * self.limit))
        return self.limit <= MAX_LIMIT and bool(num_beside <= BESIDE_LIMIT * num_below)


def directions_of(vectors: Vectors) -> Directions | None:
    """Fit the directions of vectors (n, D), some of which may be of another encoder; None if there are too few."""
    coordinates = slice(None, None, -(-vectors.shape[1] // MAX_COORDINATES))
    some = vectors[:: -(-len(vectors) // MAX_VECTORS) or 1, coordinates]
    norms = np.linalg.norm(some, axis=1)
    unit = unit_length(some[np.isfinite(norms) & (norms > 0)])
    num = min(NUM_DIRECTIONS, int(MAX_SHARE * unit.shape[1]), int(KEPT_SHARE * len(unit) / 2) // MIN_PER_DIRECTION)
    if len(unit) < MIN_VECTORS or num < 1 / FIRST_DIRECTIONS:
        return None
    is_first = np.random.default_rng(0).random(len(unit)) < 0.5
    random = unit_length(np.random.default_rng(0).standard_normal((NUM_RANDOM, unit.shape[1]), dtype=np.float32))
    is_kept, found = np.ones(len(unit), np.bool_), []
    for number in range(MORE_ROUNDS if len(unit) < FEW_VECTORS else NUM_ROUNDS):
        num_now = num if number else max(1, int(FIRST_DIRECTIONS * num))
        found, scores = [], np.empty(len(unit), np.float32)
        for half in (is_first, ~is_first):
            if np.count_nonzero(half & is_kept) < num_now:  # most vectors are equal, so that few fit better than others
                return None
            found.append(_fitted(unit[half & is_kept], unit[~half], random, num=num_now, coordinates=coordinates))
            scores[~half] = found[-1]._scores(unit[~half])
        is_kept = scores > np.quantile(scores, 1 - KEPT_SHARE)
    return found[0]


def _fitted(unit: Vectors, others: Vectors, random: Vectors, *, num: int, coordinates: slice) -> Directions:
    leading = leading_directions(unit, num)
    squares = np.square(unit @ leading.T).mean(axis=0, dtype=np.float64)
    rest = float((1 - squares.sum()) / (unit.shape[1] - num))
    of_others, of_random = (log_likelihoods(each, leading, squares, rest) for each in (others, random))
    own, at_random = float(np.median(of_others)), float(of_random.mean())
    return Directions(
        coordinates=coordinates,
        leading=leading,
        parts=squares,
        rest=rest,
        random=at_random,
        own=own,
        deviation=float(of_random.std() / max(own - at_random, 1e-9)),
    )
