"""The nearest concepts of a table by faiss, for tables that are too large to be compared whole for every answer.

faiss (extra `faiss`) sorts the vectors into cells around the centres of a k-means and compares a query with the cells
nearest to it, in half precision. What it finds is compared again with the vectors of the table, so cosines and order
are exact, but a near concept in another cell can be missed. The number of cells searched (nprobe) is chosen when the
index is built: enough to find `RECALL` of the ten nearest concepts of queries like a prediction, which are means of
five neighbours.

Scores never use it: reports search exactly.

Shapes: N = candidates, B = vectors, D = vector width, k = concepts asked for.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.decoding._contract import Rows, refuse_other_shape
from lvm_pipeline.decoding.nearest import ConceptBank, Found
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.encoder import unit_length

Search = Literal["exact", "faiss"]
RECALL = 0.99
NUM_QUERIES = 100  # to measure the recall
NUM_NEAREST = 10
NUM_NEIGHBOURS = 5  # concepts whose mean is a query
VECTORS_PER_CELL = 64  # to fit the k-means


@dataclass(frozen=True, kw_only=True)
class FaissBank(ConceptBank):
    """A bank that is searched by cells."""

    @cached_property
    def recall(self) -> float:
        """Recall of the index; also chooses the number of cells searched."""
        queries = self._queries()
        exact = ConceptBank.nearest(self, queries, NUM_NEAREST)
        num_cells = self._index.nlist
        self._index.nprobe = 1
        while True:
            found = self._of_cells(queries, NUM_NEAREST)
            hits = [np.isin(true.rows, near).mean() for true, near in zip(exact, found, strict=True)]
            if np.mean(hits) >= RECALL or self._index.nprobe == num_cells:
                return float(np.mean(hits))
            self._index.nprobe = min(2 * self._index.nprobe, num_cells)

    @property
    def how(self) -> str:
        return f"faiss, which finds {self.recall:.1%} of the nearest {NUM_NEAREST}"

    def prepare(self) -> None:
        """Build the index and choose the number of cells searched."""
        _ = self.recall

    def nearest(
        self, vectors: NDArray[np.float32], count: int = 1, *, exclude: Sequence[Rows] | None = None
    ) -> list[Found]:
        """Find the `count` candidates of the highest cosine to each vector (B, D) in its cells; ties in table order.

        A vector whose cells hold too few candidates is compared with all.
        """
        refuse_other_shape("nearest", vectors, self.vectors.shape[1])
        self.prepare()
        left_out = exclude if exclude is not None else [np.empty(0, np.int64)] * len(vectors)
        wanted = count + max((len(rows) for rows in left_out), default=0)
        if not len(vectors) or wanted >= self.num_candidates:
            return ConceptBank.nearest(self, vectors, count, exclude=exclude)
        answers = zip(vectors, self._of_cells(vectors, wanted), left_out, strict=True)
        return [self._exactly(vector, rows, count, without) for vector, rows, without in answers]

    def _exactly(self, vector: NDArray[np.float32], rows: Rows, count: int, left_out: Rows) -> Found:
        rows = rows[~np.isin(rows, left_out)]
        if len(rows) < count:
            return ConceptBank.nearest(self, vector[None], count, exclude=[left_out])[0]
        cosines = unit_length(np.asarray(self.vectors[rows])) @ unit_length(vector[None])[0]
        order = np.lexsort((rows, -cosines))[:count]
        return Found(rows=rows[order], cosines=cosines[order])

    def _of_cells(self, vectors: NDArray[np.float32], count: int) -> list[Rows]:
        _, positions = self._index.search(np.ascontiguousarray(unit_length(vectors)), count)
        found = [line[line >= 0] for line in positions]
        return found if self.rows is None else [self.rows[line] for line in found]

    def _queries(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(0)
        starts = rng.choice(self.num_candidates, min(NUM_QUERIES, self.num_candidates), replace=False)
        runs = (starts[:, None] + np.arange(NUM_NEIGHBOURS)) % self.num_candidates
        rows = runs if self.rows is None else self.rows[runs]
        return unit_length(np.asarray(self.vectors[rows.ravel()])).reshape(*rows.shape, -1).mean(axis=1)

    @cached_property
    def _index(self) -> Any:  # faiss.IndexIVFScalarQuantizer
        faiss = load_faiss()
        dim, num_cells = self.vectors.shape[1], max(1, round(self.num_candidates**0.5))
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, dim, num_cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.max_points_per_centroid, index.cp.seed = VECTORS_PER_CELL, 0
        num_fitted = min(self.num_candidates, VECTORS_PER_CELL * num_cells)
        fitted = np.sort(np.random.default_rng(0).choice(self.num_candidates, num_fitted, replace=False))
        index.train(unit_length(np.asarray(self.vectors[fitted if self.rows is None else self.rows[fitted]])))
        for _, block in self._blocks():
            index.add(unit_length(np.asarray(block)))
        return index


def kind_of_bank(search: Search) -> type[ConceptBank]:
    """Return the class of bank for a kind of search.

    Raises:
        LvmError: If it needs faiss and that is not installed.
    """
    if search == "exact":
        return ConceptBank
    load_faiss()
    return FaissBank


def load_faiss() -> Any:
    """Return the module faiss.

    Raises:
        LvmError: If it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise LvmError(
            "LVM_SEARCH is faiss, which is not installed; run `pip install 'lvm-pipeline[faiss]'`, or set LVM_SEARCH "
            "to exact."
        ) from error
