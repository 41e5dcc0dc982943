"""Batches as index gathers from the resident vectors: no worker processes, no copies of windows.

Runs of about equal length go together, so that almost nothing is padded.

Shapes: N = concepts, R = runs, B = runs in a batch, T = longest context in it, D = vector width.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.training.data import Runs

LENGTH_JITTER = 0.05  # runs whose lengths differ by less than this share swap places from epoch to epoch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one optimiser step sees.

    Attributes:
        contexts: (B, T, D); beyond a run's end anything finite.
        targets: The vector after each position, (B, T, D).
        is_target: Which positions count, bool (B, T).
    """

    contexts: Tensor
    targets: Tensor
    is_target: Tensor


def place_vectors(vectors: NDArray[np.float32], device: str) -> Tensor:
    """Put all vectors (N, D) on the device; on a CPU this is the memory map itself, not a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        resident = torch.from_numpy(vectors)
    return resident.to(device)


def group_runs(runs: Runs, batch_size: int, *, rng: np.random.Generator | None = None) -> list[NDArray[np.int64]]:
    """Group runs of similar length into batches of about `batch_size` targets.

    Args:
        runs: What to group.
        batch_size: Targets in a batch, about; a run with more is a batch of its own.
        rng: Shuffles which runs of similar length meet, and the order of the batches; without it both
            follow the lengths.

    Returns:
        Indices of the runs in each batch.
    """
    if not len(runs):
        return []
    keys = runs.lengths.astype(np.float64)
    if rng is not None:
        keys = keys * rng.uniform(1, 1 + LENGTH_JITTER, len(runs))
    order = np.argsort(keys, kind="stable")
    counts = runs.num_targets[order]
    ends = np.cumsum(counts)
    even_size = ends[-1] / max(1, round(ends[-1] / batch_size))  # so that no small batch is left over
    numbers = ((ends - counts / 2) // even_size).astype(np.int64)
    groups = np.split(order, np.flatnonzero(np.diff(numbers)) + 1)
    if rng is not None:
        rng.shuffle(groups)  # pyright: ignore[reportArgumentType]
    return groups


def gather(vectors: Tensor, runs: Runs) -> Batch:
    """Read the runs of one batch from the resident vectors (N, D)."""
    longest = int(runs.lengths.max())
    positions = np.arange(longest + 1)
    rows = runs.first_rows[:, None] + np.minimum(positions, runs.lengths[:, None])
    is_target = (positions[:-1] >= runs.first_targets[:, None]) & (positions[:-1] < runs.lengths[:, None])
    both = vectors[torch.from_numpy(rows).to(vectors.device)]
    return Batch(contexts=both[:, :-1], targets=both[:, 1:], is_target=torch.from_numpy(is_target).to(vectors.device))


def batches(
    vectors: Tensor, runs: Runs, batch_size: int, *, rng: np.random.Generator | None = None
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Yield every batch once, with the indices of its runs."""
    for indices in group_runs(runs, batch_size, rng=rng):
        yield indices, gather(vectors, runs.take(indices))


def padded_fraction(runs: Runs, groups: list[NDArray[np.int64]]) -> float:
    """Return the share of positions that are padding."""
    padded = sum(int(runs.lengths[group].max()) * len(group) for group in groups)
    return 1 - int(runs.lengths.sum()) / padded
