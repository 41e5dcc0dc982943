"""Search a concept table twice: all concepts in bfloat16, then the few that may be among the nearest exactly.

The first pass reads half the memory and uses the processor's bfloat16 products. What it leaves out is provably further
away: rounding two unit vectors and their product changes a cosine by less than `MARGIN`. So the result is that of the
exact search. Where the processor has no bfloat16 products, only the exact search runs.

Shapes: N = concepts in the table, B = queries, D = vector width, k = concepts asked for.
"""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from lvm_pipeline.architectures._torch_internals import has_avx512_bfloat16
from lvm_pipeline.decoding.nearest import ConceptBank, Found
from lvm_pipeline.source.encoders.encoder import unit_length

MARGIN = 0.0065  # two roundings of inputs and one of the product, each of at most 2 ** -9, and their accumulation
ROWS_IN_A_BLOCK = 8192


class BankSearch:
    """A concept bank with a rounded copy of its vectors, (N, D)."""

    def __init__(self, bank: ConceptBank, *, may_round: bool | None = None):
        """Take a bank; `may_round` decides about the first pass, None: where the processor gains from it."""
        self.bank = bank
        gains = type(bank) is ConceptBank and has_avx512_bfloat16()
        self.may_round = gains if may_round is None else may_round

    def prepare(self) -> None:
        """Make what every search needs, so that the first one does not wait for it."""
        _ = self._rounded if self.may_round else self.bank.prepare()

    def nearest(self, queries: NDArray[np.float32], count: int) -> list[Found]:
        """Return the concepts of the highest cosine to each query (B, D), best first; ties in table order."""
        if not self.may_round or count >= self.bank.num_candidates:
            return self.bank.nearest(queries, count)
        directions = unit_length(queries)
        with torch.inference_mode():
            coarse = torch.from_numpy(directions).bfloat16() @ self._rounded.T
            lowest = coarse.topk(count, dim=1).values[:, -1:].float() - 2 * MARGIN
            lines, rows = (coarse >= lowest).nonzero(as_tuple=True)
        of_line = np.searchsorted(lines.numpy(), np.arange(len(queries) + 1))
        return [
            self._exact(direction, rows[start:end].numpy(), count)
            for direction, start, end in zip(directions, of_line[:-1], of_line[1:], strict=True)
        ]

    def _exact(self, direction: NDArray[np.float32], rows: NDArray[np.int64], count: int) -> Found:
        cosines = unit_length(np.asarray(self.bank.vectors[rows])) @ direction
        order = np.lexsort((rows, -cosines))[:count]
        return Found(rows=rows[order], cosines=cosines[order])

    @cached_property
    def _rounded(self) -> torch.Tensor:
        vectors = self.bank.vectors
        rounded = torch.empty(vectors.shape, dtype=torch.bfloat16)
        for start in range(0, len(vectors), ROWS_IN_A_BLOCK):
            block = unit_length(np.asarray(vectors[start : start + ROWS_IN_A_BLOCK]))
            rounded[start : start + ROWS_IN_A_BLOCK] = torch.from_numpy(block)
        return rounded
