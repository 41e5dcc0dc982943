"""Statistics of a vector space, to detect vectors of another space without its encoder.

A fingerprint holds the mean of the unit vectors, their K leading directions and the mean square along each. The fit of
a vector is the log-likelihood of its direction (angular central Gaussian), scaled so that random directions have 0 on
average and the space's own vectors 1. Directions are estimated on one half of the articles and everything else on the
other half, so that new articles fit as well as these.

The limit is a fit that almost no random direction reaches. The minimum number of vectors that are judged is measured on
the second half, in reading order: the lowest mean fit of that many must be far above the limit. If the vectors of a
space are spread evenly over all directions, there is no such number and nothing is judged. Small changes, such as
another prompt or truncation of the same encoder, are not detected here; they are part of the space id.

Shapes: n = vectors, A = articles, D = vector width, K = directions.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.files import staged_file
from lvm_pipeline.source.encoders.encoder import encoder_folder, unit_length

FILE = "space.npz"  # beside the weights of a trained model
MIN_CONCEPTS = 500  # with fewer vectors there is no fingerprint
MAX_CONCEPTS = 8_000  # at most this many vectors are used for a fingerprint
NUM_DIRECTIONS = 64
NUM_RANDOM = 4096
LIMIT_DEVIATIONS = 4.0  # limit, in standard deviations of the fit of random directions
MARGIN = 1.5  # the lowest mean fit of the space's own vectors must be this many times the limit
NUMBERS_JUDGED = (8, 16, 32, 64)
MIN_RUNS = 10  # runs of vectors needed to measure the lowest mean fit or cosine
NUM_MEAN = 256  # fewest vectors whose mean is compared
MEAN_SHARE = 1 / 3  # limit of the mean cosine, relative to the lowest mean cosine of the space's own vectors
MIN_MEAN = 0.06  # with a lower lowest mean cosine there is no such limit
JUDGED_AT_ONCE = 4096
GROWTH = 2  # a fingerprint made from this many times as many concepts replaces an earlier one

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SpaceFingerprint:
    """The statistics of a space."""

    space_id: str
    num_concepts: int  # that it was made from
    mean: Vectors  # of the unit vectors, (D,)
    directions: Vectors  # orthonormal, (K, D)
    parts: NDArray[np.float64]  # mean square of the unit vectors along each direction, (K,)
    rest: float  # the same along any other direction
    random: float  # log-likelihood of random directions, up to a constant
    own: float  # of the space's vectors
    limit: float  # a mean fit below is that of another space
    min_vectors: int  # fewest vectors that are judged; 0: none ever
    mean_limit: float  # mean cosine of NUM_MEAN vectors to the mean below which they are of another space; -1: none is
    lowest: float  # lowest mean fit of `min_vectors` of its own vectors in a row

    def fits(self, vectors: Vectors) -> NDArray[np.float64]:
        """Return the fit of each vector (n, D), (n,): on average 1 for the space's own, 0 for random directions."""
        found = log_likelihoods(vectors, self.directions, self.parts, self.rest)
        return (found - self.random) / (self.own - self.random)

    def why_other(self, vectors: Vectors) -> str | None:
        """Return why vectors (n, D) are of another space, None if they are not or are too few to be judged."""
        if not self.min_vectors or len(vectors) < self.min_vectors:
            return None
        if vectors.shape[1] != len(self.mean):
            return f"they are {vectors.shape[1]} wide and those of {self.space_id} {len(self.mean)}"
        some = vectors[:: -(-len(vectors) // JUDGED_AT_ONCE)]
        fit, along = float(self.fits(some).mean()), float(_cosines(some, self.mean).mean())
        if fit >= self.limit and (len(some) < NUM_MEAN or along >= self.mean_limit):
            return None
        if fit >= self.limit:
            return (
                f"the mean of {len(some):,} vectors differs from that of {self.space_id}, as if they were centred or "
                f"negated (mean cosine to it {along:+.2f}; its own have {float(np.linalg.norm(self.mean)):+.2f})"
            )
        return (
            f"{len(some):,} vectors fit the statistics of {self.space_id} no better than random directions do "
            f"({fit:.2f}; its own have 1 on average, and {self.min_vectors} in a row at least {self.lowest:.2f})"
        )


def fingerprint_of(space_id: str, vectors: Vectors, articles: NDArray[np.integer]) -> SpaceFingerprint | None:
    """Measure vectors (n, D) of whole articles (n,), each article in one run; None if there are too few vectors."""
    norms = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    unit, codes = unit_length(vectors[usable]), np.unique(articles[usable], return_inverse=True)[1]
    is_first = np.random.default_rng(0).permutation(codes.max(initial=-1) + 1)[codes] % 2 == 0
    width = unit.shape[1]
    num_directions = min(NUM_DIRECTIONS, width // 4)
    if len(unit) < MIN_CONCEPTS or not num_directions or min(is_first.sum(), (~is_first).sum()) <= num_directions:
        return None
    second = unit[~is_first]
    directions = leading_directions(unit[is_first], num_directions)
    parts = np.square(second @ directions.T).mean(axis=0, dtype=np.float64)
    rest = float((1 - parts.sum()) / (width - num_directions))
    random = unit_length(np.random.default_rng(0).standard_normal((NUM_RANDOM, width), dtype=np.float32))
    of_own, of_random = (log_likelihoods(each, directions, parts, rest) for each in (second, random))
    gap = float(of_own.mean() - of_random.mean())
    if not gap > 0:
        return None
    limit = LIMIT_DEVIATIONS * float(of_random.std()) / gap
    min_vectors, lowest = _judged_from((of_own - of_random.mean()) / gap, limit=limit)
    mean = unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    return SpaceFingerprint(
        space_id=space_id,
        num_concepts=len(unit),
        mean=mean,
        directions=directions,
        parts=parts,
        rest=rest,
        random=float(of_random.mean()),
        own=float(of_own.mean()),
        limit=limit,
        min_vectors=min_vectors,
        mean_limit=_mean_limit(_cosines(second, mean)),
        lowest=lowest,
    )


def leading_directions(unit: Vectors, num: int) -> Vectors:
    """Return the orthonormal directions (num, D) along which vectors (n, D), n >= num, are longest, longest first."""
    from scipy.linalg import eigh

    is_wide = unit.shape[1] > len(unit)  # then the products of vectors are fewer than those of coordinates
    products = (unit @ unit.T if is_wide else unit.T @ unit).astype(np.float64)
    _, found = eigh(products, subset_by_index=(len(products) - num, len(products) - 1))
    directions = np.linalg.qr(unit.T @ found[:, ::-1])[0] if is_wide else found[:, ::-1]
    return np.ascontiguousarray(directions.T, np.float32)


def log_likelihoods(
    vectors: Vectors, directions: Vectors, parts: NDArray[np.float64], rest: float
) -> NDArray[np.float64]:
    """Return the log-density of each vector's direction, up to a constant and the factor D / 2, (n,).

    It is that of an angular central Gaussian with the mean square `parts` (K,) along orthonormal `directions` (K, D),
    and `rest` along any other direction.
    """
    parts, rest = np.maximum(parts, 1e-9), max(rest, 1e-9)
    squares = np.square(unit_length(vectors) @ directions.T).astype(np.float64)
    return -np.log(squares @ (1 / parts) + np.maximum(1 - squares.sum(axis=1), 0) / rest)


def _judged_from(fits: NDArray[np.float64], *, limit: float) -> tuple[int, float]:
    """Return the fewest vectors in a row whose mean fit is never near the limit, and the lowest; 0 for none."""
    for num in NUMBERS_JUDGED:
        runs = fits[: len(fits) // num * num].reshape(-1, num).mean(axis=1)
        if len(runs) >= MIN_RUNS and runs.min() >= MARGIN * limit:
            return num, float(runs.min())
    return 0, 0.0


def _mean_limit(cosines: NDArray[np.float64]) -> float:
    """Return the limit of the mean cosine to the mean, from the cosines of the space's own vectors; -1 for no limit."""
    runs = cosines[: len(cosines) // NUM_MEAN * NUM_MEAN].reshape(-1, NUM_MEAN).mean(axis=1)
    lowest = float(runs.min()) if len(runs) >= MIN_RUNS else 0.0
    return MEAN_SHARE * lowest if lowest >= MIN_MEAN else -1.0


def _cosines(vectors: Vectors, mean: Vectors) -> NDArray[np.float64]:
    return (unit_length(vectors) @ unit_length(mean)).astype(np.float64)


def kept_path(spaces_dir: Path, space_id: str) -> Path:
    """Return the file of a space's fingerprint in a home."""
    folder = encoder_folder(spaces_dir, space_id)
    return folder.with_name(f"{folder.name}.npz")


def write_fingerprint(path: Path, fingerprint: SpaceFingerprint) -> None:
    """Write a fingerprint whole or not at all."""
    arrays: dict[str, Any] = {each.name: np.asarray(getattr(fingerprint, each.name)) for each in fields(fingerprint)}
    with staged_file(path) as staged, staged.open("wb") as file:
        np.savez(file, **arrays)


def read_fingerprint(path: Path) -> SpaceFingerprint | None:
    """Read a fingerprint; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return SpaceFingerprint(**{each.name: _value(file, each.name) for each in fields(SpaceFingerprint)})
    except (OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile):
        return None


def _value(file: Mapping[str, Any], name: str) -> Any:
    array = file[name]
    return array if array.ndim else array.item()
