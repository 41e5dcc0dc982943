"""Batches as index gathers from the vectors on the device: no worker processes, no copies of windows.

Spans of about equal length go together, so that almost nothing is padded.

Shapes: N = concepts, R = spans, B = spans in a batch, T = longest context in it, D = vector width.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.training.read_ahead import read_ahead
from lvm_pipeline.training.spans import Spans

LENGTH_JITTER = 0.05  # spans whose lengths differ by less than this share are reordered from epoch to epoch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one optimiser step sees."""

    contexts: Tensor  # (B, T, D); arbitrary finite values after the end of a span
    targets: Tensor  # the vector after each position, (B, T, D)
    is_target: Tensor  # positions whose target counts, bool (B, T)
    rows: Tensor  # row of each target in the concept table, int64 (B, T); a context is one row before its target
    condition: Tensor | None = None  # the condition of each context concept, (B, T, C), for models that have one

    def chosen_targets(self) -> Tensor:
        """Return the targets that count, (n, D), in row-major order."""
        return self.targets.flatten(0, 1) if self.is_target.all() else self.targets[self.is_target]


def vectors_on_device(vectors: NDArray[np.float32], device: str) -> Tensor:
    """Put all vectors (N, D) on the device; on a CPU this is the memory map itself, not a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        tensor = torch.from_numpy(vectors)
    return tensor.to(device)


def condition_on_device(condition: NDArray[np.float32] | None, device: str) -> Tensor | None:
    """Put the condition of all concepts (N, C) on the device, for models that have one."""
    return None if condition is None else torch.from_numpy(condition).to(device)


def group_spans(
    spans: Spans,
    batch_size: int,
    *,
    rng: np.random.Generator | None = None,
    num_targets: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """Group spans of similar length into batches of about `batch_size` targets; return the indices of each.

    A span with more targets is a batch of its own. `rng` shuffles which spans of similar length meet, and the order of
    the batches; without it both follow the lengths. `num_targets` counts the targets of each span (default: all).
    """
    if not len(spans):
        return []
    keys = spans.lengths.astype(np.float64)
    if rng is not None:
        keys = keys * rng.uniform(1, 1 + LENGTH_JITTER, len(spans))
    order = np.argsort(keys, kind="stable")
    counts = spans.num_targets if num_targets is None else num_targets
    groups = _split(order, counts[order], batch_size)
    if rng is not None:
        rng.shuffle(groups)  # pyright: ignore[reportArgumentType]
    return groups


def groups_in_order(
    spans: Spans, batch_size: int, *, num_targets: NDArray[np.int64] | None = None
) -> list[NDArray[np.int64]]:
    """Group neighbouring spans into batches of about `batch_size` targets (that count), in the order given."""
    if not len(spans):
        return []
    return _split(np.arange(len(spans)), spans.num_targets if num_targets is None else num_targets, batch_size)


def _split(order: NDArray[np.int64], counts: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Split indices in order into batches of about `batch_size` targets; `counts` are the targets of each."""
    ends = np.cumsum(counts)
    even_size = ends[-1] / max(1, round(ends[-1] / batch_size))  # so that no small batch is left over
    numbers = ((ends - counts / 2) // even_size).astype(np.int64)
    return np.split(order, np.flatnonzero(np.diff(numbers)) + 1)


def gather(
    vectors: Tensor, spans: Spans, condition: Tensor | None = None, *, counted: NDArray[np.bool_] | None = None
) -> Batch:
    """Gather the batch of some spans, on the device of the vectors (N, D).

    `condition` is that of all concepts, (N, C), for models that have one; `counted` marks the rows whose concept counts
    as a target, bool (N,), default all.
    """
    longest = int(spans.lengths.max())
    positions = np.arange(longest + 1)
    rows = spans.first_rows[:, None] + np.minimum(positions, spans.lengths[:, None])
    is_target = (positions[:-1] >= spans.first_targets[:, None]) & (positions[:-1] < spans.lengths[:, None])
    if counted is not None:
        is_target &= counted[rows[:, 1:]]
    found_rows = torch.from_numpy(rows).to(vectors.device)
    both = vectors[found_rows]
    return Batch(
        contexts=both[:, :-1],
        targets=both[:, 1:],
        is_target=torch.from_numpy(is_target).to(vectors.device),
        rows=found_rows[:, 1:],
        condition=None if condition is None else condition[found_rows[:, :-1]],
    )


def batches(
    vectors: Tensor,
    spans: Spans,
    batch_size: int,
    *,
    condition: Tensor | None = None,
    rng: np.random.Generator | None = None,
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Yield every batch once, with the indices of its spans."""
    groups = group_spans(spans, batch_size, rng=rng)
    for indices, part in zip(groups, read_ahead(vectors, [spans.take(group) for group in groups]), strict=True):
        yield indices, gather(vectors, part, condition)
