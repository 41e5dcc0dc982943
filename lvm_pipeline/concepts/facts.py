"""The facts about a concept table that its invariants check, collected in one pass over its row groups.

A few numbers per row are kept (ids, positions, norms, hashes), but no texts or vectors, so memory does not depend on
the width of the vectors. `ConceptFacts.sample` holds a bounded number of them, for the checks that need both.

Shapes: N = concepts in the table, A = articles, D = vector width, n = rows of a row group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.concepts.duplicates import text_hashes, vector_hashes
from lvm_pipeline.concepts.sample import ConceptSample, read_sample
from lvm_pipeline.concepts.schema import ConceptsMetadata, concepts_schema, explain_bad_parquet, read_concepts_metadata
from lvm_pipeline.concepts.store import read_source_findings, stream_row_groups
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import MAX_LISTED, Finding, listed

NO_CODE = -1
LARGEST_NORM = 1e15  # up to here, sums of squares are finite in float32
NUM_CANARIES = 16
CODES = ("domain", "task", "modifier")
COLUMNS = ("row", "cpe_id", "article_id", "article_index", "position", "concept_text", *CODES, "vector")


@dataclass(frozen=True, kw_only=True)
class ConceptFacts:
    path: Path  # the concept table
    metadata: ConceptsMetadata  # its metadata
    source_findings: list[Finding]  # findings of the extraction
    cpe_ids: pa.Array  # id of each concept, N of them
    article_ids: list[str]  # ids of the articles by first appearance, A of them
    article_codes: NDArray[np.int32]  # index into `article_ids` of each concept, shape (N,)
    rows: NDArray[np.int64]  # column `row`, shape (N,)
    article_indices: NDArray[np.int32]  # column `article_index`, shape (N,)
    positions: NDArray[np.int32]  # column `position`, shape (N,)
    codes: NDArray[np.int16]  # domain, task, modifier of each concept, -1 where there is none, shape (N, 3)
    is_text_empty: NDArray[np.bool_]  # whether there is no text, or only white space, shape (N,)
    text_hashes: NDArray[np.int64]  # hash of each text, shape (N,)
    widths: NDArray[np.int32]  # width of each vector, -1 where it is missing, shape (N,)
    is_finite: NDArray[np.bool_]  # whether a vector has no NaN and no infinity; True where it is missing, shape (N,)
    norms: NDArray[np.float64]  # length of each vector; NaN where it is missing or not finite, shape (N,)
    vector_hashes: NDArray[np.int64]  # hash of each vector, shape (N,); 0 where it is missing
    canary_rows: NDArray[np.int64]  # some rows spread over the table
    canary_texts: list[str]  # their texts
    canary_vectors: list[NDArray[np.float32] | None]  # their vectors, None where one is missing

    @property
    def num_concepts(self) -> int:
        return len(self.rows)

    @cached_property
    def is_usable(self) -> NDArray[np.bool_]:
        """Whether a concept has a text and a finite vector of the right width, shape (N,)."""
        return (self.norms < LARGEST_NORM) & (self.widths == self.metadata.vector_dim) & ~self.is_text_empty

    @cached_property
    def sample(self) -> ConceptSample:
        """Whole articles with texts and vectors, read on first use; all articles if there is room."""
        return self.sample_with(())

    def sample_with(self, also: Sequence[int]) -> ConceptSample:
        """Read the sample and these articles, which are indices into `article_ids`."""
        return read_sample(
            self.path,
            article_codes=self.article_codes,
            vector_dim=self.metadata.vector_dim,
            usable=self.is_usable,
            also=also,
        )

    def article_lengths(self) -> NDArray[np.int64]:
        """Concepts of each article, shape (A,), in the order of `article_ids`."""
        return np.bincount(self.article_codes, minlength=len(self.article_ids))

    def named(self, rows: NDArray[np.int64]) -> list[str]:
        """Write rows as `row 12 (its cpe_id)`."""
        return [f"row {row} ({self.cpe_ids[row]})" for row in rows.tolist()]

    def listed(self, rows: NDArray[np.int64], says: Callable[[int], str] | None = None) -> str:
        """Join the first rows, each followed by what `says` returns for it, and the number of the others."""
        first = rows[:MAX_LISTED]
        names = self.named(first)
        if says is not None:
            names = [f"{name} {says(row)}" for name, row in zip(names, first.tolist(), strict=True)]
        return listed(names, len(rows))

    def some(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Return the first rows and their ids, for the details of a finding."""
        first = rows[:MAX_LISTED].tolist()
        return {"rows": first, "cpe_ids": [str(self.cpe_ids[row]) for row in first]}


def lacks_codes(codes: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return whether each concept lacks TMD codes, shape (N,).

    It does if one of its three codes, (N, 3), is missing (-1), or if they are 0, 0, 0: a failed assignment.
    """
    return (codes == NO_CODE).any(axis=1) | (codes == 0).all(axis=1)


class _VectorFacts(NamedTuple):
    widths: NDArray[np.int32]
    is_finite: NDArray[np.bool_]
    norms: NDArray[np.float64]
    hashes: NDArray[np.int64]


def read_facts(path: Path) -> ConceptFacts:
    """Read a concept table once, row group by row group.

    Raises:
        LvmError: If the file is missing, damaged, lacks a column, or was not written by this project.
    """
    metadata = read_concepts_metadata(path)
    with explain_bad_parquet(path):
        num_concepts = pq.read_metadata(path).num_rows
        schema = pq.read_schema(path)
    require_columns(path, schema, metadata.vector_dim)
    canary_rows = np.unique(np.linspace(0, max(num_concepts - 1, 0), NUM_CANARIES).astype(np.int64))[:num_concepts]
    small: list[pa.Table] = []
    is_text_empty: list[bool] = []
    hashes = [text_hashes([])]
    of_vectors = [_vector_facts(pa.array([], schema.field("vector").type))]
    texts: list[str] = []
    vectors: list[NDArray[np.float32] | None] = []
    first_row = 0
    for group in stream_row_groups(path, COLUMNS):
        small.append(group.drop_columns(["concept_text", "vector"]))
        group_texts, vector_column = group["concept_text"].to_pylist(), group["vector"].combine_chunks()
        is_text_empty += [not (text and text.strip()) for text in group_texts]
        hashes.append(text_hashes(group_texts))
        of_vectors.append(_vector_facts(vector_column))
        for row in canary_rows[(canary_rows >= first_row) & (canary_rows < first_row + group.num_rows)] - first_row:
            texts.append(group_texts[row] or "")
            values = vector_column[int(row)]
            vectors.append(np.array(values.as_py(), np.float32) if values.is_valid else None)
        first_row += group.num_rows
    columns = pa.concat_tables(small) if small else schema.empty_table()
    articles = columns["article_id"].combine_chunks().dictionary_encode()
    widths, is_finite, norms, vector_hashes_ = (np.concatenate(pieces) for pieces in zip(*of_vectors, strict=True))
    return ConceptFacts(
        path=path,
        metadata=metadata,
        source_findings=read_source_findings(path),
        cpe_ids=columns["cpe_id"].combine_chunks(),
        article_ids=articles.dictionary.to_pylist(),
        article_codes=articles.indices.to_numpy(),
        rows=columns["row"].to_numpy(),
        article_indices=columns["article_index"].to_numpy(),
        positions=columns["position"].to_numpy(),
        codes=np.stack([columns[name].fill_null(NO_CODE).to_numpy() for name in CODES], axis=1),
        is_text_empty=np.array(is_text_empty, np.bool_),
        text_hashes=np.concatenate(hashes),
        widths=widths,
        is_finite=is_finite,
        norms=norms,
        vector_hashes=vector_hashes_,
        canary_rows=canary_rows,
        canary_texts=texts,
        canary_vectors=vectors,
    )


def require_columns(path: Path, schema: pa.Schema, vector_dim: int) -> None:
    """Check that a concept table has the columns that are checked, each of its type.

    Raises:
        LvmError: If one is missing or of another type.
    """
    expected = concepts_schema(vector_dim)
    for name in COLUMNS:
        if name not in schema.names:
            raise LvmError(
                f"{path} has no column {name}; it has {', '.join(schema.names)}. Extract the concepts again."
            )
        kind = schema.field(name).type
        is_list_of_floats = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if kind != expected.field(name).type and not (name == "vector" and is_list_of_floats):
            raise LvmError(
                f"The column {name} of {path} is {kind}, expected {expected.field(name).type}; extract again."
            )


def _vector_facts(column: pa.Array) -> _VectorFacts:
    """Return the facts about the vectors of one row group, of any widths."""
    widths = column.value_lengths().fill_null(-1).to_numpy().astype(np.int32)
    facts = _VectorFacts(
        widths=widths,
        is_finite=np.ones(len(widths), np.bool_),
        norms=np.full(len(widths), np.nan),
        hashes=np.zeros(len(widths), np.int64),
    )
    for width in np.unique(widths[widths >= 0]).tolist():
        rows = np.flatnonzero(widths == width)
        same = column if len(rows) == len(column) else column.take(pa.array(rows))
        flat = same.flatten()
        values = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(rows), width)
        squares = np.einsum("nd,nd->n", values, values).astype(np.float64)
        doubtful = np.flatnonzero(~np.isfinite(squares))  # not finite, or so large that the square is not
        if len(doubtful):
            facts.is_finite[rows[doubtful]] = np.isfinite(values[doubtful]).all(axis=1)
            squares[doubtful] = np.square(values[doubtful].astype(np.float64)).sum(axis=1)
        facts.norms[rows] = np.sqrt(np.where(facts.is_finite[rows], squares, np.nan))
        facts.hashes[rows] = vector_hashes(values)
    return facts
