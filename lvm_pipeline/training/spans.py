"""Spans: stretches of concepts that a model reads at once, and the positions whose targets count.

Shapes: R = spans.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def consecutive(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `counts[i]` consecutive numbers from `starts[i]` on, for each i in turn."""
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + offsets


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Unbroken stretches of context concepts that a model reads at once.

    Position t of a span is row `first_row + t`; its target is the row after it. Positions before
    `first_target` are context only.
    """

    first_rows: NDArray[np.int64]  # shape (R,)
    lengths: NDArray[np.int64]  # context concepts of each span, shape (R,)
    first_targets: NDArray[np.int64]  # first position whose target counts, shape (R,)

    def __len__(self) -> int:
        return len(self.first_rows)

    @property
    def num_targets(self) -> NDArray[np.int64]:
        return self.lengths - self.first_targets

    def target_rows(self) -> NDArray[np.int64]:
        return consecutive(self.first_rows + self.first_targets + 1, self.num_targets)

    def take(self, indices: NDArray[np.int64]) -> "Spans":
        return Spans(
            first_rows=self.first_rows[indices],
            lengths=self.lengths[indices],
            first_targets=self.first_targets[indices],
        )

    def no_longer_than(self, max_context: int | None) -> "Spans":
        """Cut spans to at most `max_context` concepts; the targets and their order stay the same.

        The pieces of a cut span overlap by half, so that a target keeps at least half the longest context; a span's
        only target keeps all of it.
        """
        if max_context is None or not len(self) or self.lengths.max() <= max_context:
            return self
        stride = max(1, max_context // 2)
        pieces = []
        for first_row, length, first_target in zip(self.first_rows, self.lengths, self.first_targets, strict=True):
            has_one_target = first_target == length - 1
            start, begin = max(0, int(length) - max_context) if has_one_target else 0, int(first_target)
            while begin < length:
                end = min(start + max_context, int(length))
                if end > begin:
                    pieces.append((first_row + start, end - start, begin - start))
                    begin = end
                start += stride
        table = np.array(pieces, dtype=np.int64).reshape(-1, 3)
        return Spans(first_rows=table[:, 0], lengths=table[:, 1], first_targets=table[:, 2])
