"""Principal directions of train vectors; those fitted last are kept, since trials of one process share their data."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_KEPT = 2  # trainings of one process rarely mix more data than that
_kept: "dict[bytes, Directions]" = {}


@dataclass(frozen=True)
class Directions:
    """Eigenvectors of the covariance of some vectors, and its eigenvalues; float64, largest first."""

    variances: Tensor  # (D,)
    directions: Tensor  # one a column, (D, D)


@torch.no_grad()
def principal_directions(vectors: Tensor) -> Directions:
    """Return the principal directions of vectors (N, D), on their device."""
    digest = hashlib.blake2b(repr((vectors.shape, vectors.device)).encode())
    digest.update(memoryview(vectors.detach().contiguous().cpu().numpy()))  # pyright: ignore[reportArgumentType]
    key = digest.digest()
    if key not in _kept:
        covariance = torch.cov(vectors.double().T, correction=0).reshape(2 * vectors.shape[1:])
        variances, directions = torch.linalg.eigh(covariance)
        while len(_kept) >= NUM_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = Directions(variances.flip(0), directions.flip(1))
    return _kept[key]
