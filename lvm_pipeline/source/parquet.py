"""Parquet files with the columns `article_id, position, concept_text, vector` and optionally `cpe_id, article_title`.

The file is read twice, batch by batch: once to check every row, once for the vectors of the rows that are loaded.

Shapes: n = rows of a batch, D = vector width.
"""

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.source.articles import make_cpe_id
from lvm_pipeline.source.parquet_file import GivenParquet, parquet_errors, vectors_of_width
from lvm_pipeline.source.records import BadRow, Concept, SourceRecords, article_id_of, text_problem, vector_digests
from lvm_pipeline.source.values import whole_number

LARGEST_POSITION = np.iinfo(np.int32).max
BATCH_SIZE = 2_048
MAX_WIDTH = 16_000  # of pgvector
REQUIRED_COLUMNS = ("article_id", "position", "concept_text", "vector")
OPTIONAL_COLUMNS = ("cpe_id", "article_title")


def read_parquet(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check every row.

    Raises:
        LvmError: If the file is damaged, or a column is missing or of another type.
    """
    with parquet_errors(path), GivenParquet(path) as file:
        columns = file.require(REQUIRED_COLUMNS, OPTIONAL_COLUMNS)
        _require_types(file, columns)
        checker, space_id = _RowChecker(dataset_source), file.space_id
        for batch in file.batches(columns, batch_size=BATCH_SIZE):
            checker.add(batch, {name: file.values(batch, name) for name in columns if name != "vector"})
    concepts, vector_dim = checker.finish()
    return SourceRecords(
        path=path,
        row_kind="row",
        concepts=concepts,
        bad_rows=sorted(checker.bad_rows, key=lambda bad: bad.number),
        gaps=sorted(checker.gaps, key=lambda gap: gap.number),
        read_vectors=lambda numbers: _read_vectors(path, numbers),
        vector_dim=vector_dim,
        space_id=space_id,
    )


class _RowChecker:
    """Collects the good concepts and the bad rows of a file, batch by batch."""

    def __init__(self, dataset_source: str):
        self.bad_rows: list[BadRow] = []
        self.gaps: list[BadRow] = []
        self._dataset_source = dataset_source
        self._concepts: dict[int, Concept] = {}  # by row number
        self._widths: dict[int, int] = {}
        self._num_rows = 0
        self._cpe_ids: dict[str, int] = {}
        self._positions: dict[tuple[str, int], int] = {}  # (article, position) -> row number

    def add(self, batch: pa.RecordBatch, values: dict[str, list[Any]]) -> None:
        digests, problems, widths = _examined_vectors(batch.column("vector"))
        for row in range(batch.num_rows):
            self._num_rows += 1
            fields = {name: column[row] for name, column in values.items()}
            try:
                self._register_position(fields)
                if row in problems:
                    raise ValueError(problems[row])
                self._concepts[self._num_rows] = self._concept(fields, digest=digests[row])
                self._widths[self._num_rows] = int(widths[row])
            except ValueError as error:
                self._reject(self._num_rows, str(error))

    def finish(self) -> tuple[list[Concept], int | None]:
        """Check what needs the whole file; return the good concepts in file order and their vector width."""
        if not self._concepts:
            return [], None
        vector_dim = Counter(self._widths.values()).most_common(1)[0][0]
        for number, width in self._widths.items():
            if width != vector_dim:
                self._reject(number, f"vector has {width} components where most have {vector_dim}")
        self._check_positions()
        return list(self._concepts.values()), vector_dim

    def _register_position(self, fields: dict[str, Any]) -> None:
        """Record article and position of a row, so that a row that is bad otherwise leaves no gap."""
        article_id = fields["article_id"] = article_id_of(fields["article_id"])
        if fields["position"] is None:
            raise ValueError("position is missing")
        try:
            position = fields["position"] = whole_number(fields["position"])
        except ValueError as error:
            raise ValueError(f"position {error}") from None
        if not 0 <= position <= LARGEST_POSITION:
            raise ValueError(f"position is {position}, {'below 0' if position < 0 else 'too large'}")
        before = self._positions.setdefault((article_id, position), self._num_rows)
        if before != self._num_rows:
            raise ValueError(f"position {position} of article {article_id} is already that of row {before}")

    def _concept(self, fields: dict[str, Any], *, digest: bytes) -> Concept:
        if problem := text_problem(fields["concept_text"], name="concept_text"):
            raise ValueError(problem)
        return Concept(
            number=self._num_rows,
            cpe_id=self._cpe_id(fields),
            article_id=fields["article_id"],
            title=_title(fields),
            position=fields["position"],
            text=fields["concept_text"].strip(),
            vector_digest=digest,
        )

    def _cpe_id(self, fields: dict[str, Any]) -> str:
        if fields.get("cpe_id") is None:
            return make_cpe_id(self._dataset_source, fields["article_id"], fields["position"])
        try:
            cpe_id = str(uuid.UUID(str(fields["cpe_id"])))
        except ValueError:
            raise ValueError(f"cpe_id {str(fields['cpe_id'])[:60]!r} is not a UUID") from None
        before = self._cpe_ids.setdefault(cpe_id, self._num_rows)
        if before != self._num_rows:
            raise ValueError(f"cpe_id {cpe_id} is already that of row {before}")
        return cpe_id

    def _check_positions(self) -> None:
        """Report each gap at the row after it."""
        articles: dict[str, list[int]] = defaultdict(list)
        for article_id, position in self._positions:
            articles[article_id].append(position)
        for article_id, positions in articles.items():
            expected = 0
            for position in sorted(positions):
                if position != expected:
                    reason = f"position {position} of article {article_id} where {expected} was expected"
                    self.gaps.append(BadRow(kind="row", number=self._positions[article_id, position], reason=reason))
                expected = position + 1

    def _reject(self, number: int, reason: str) -> None:
        self._concepts.pop(number, None)
        self.bad_rows.append(BadRow(kind="row", number=number, reason=reason))


def _examined_vectors(column: pa.Array) -> tuple[dict[int, bytes], dict[int, str], NDArray[np.int64]]:
    """Return the digest of each vector, what is wrong with each bad one, and all widths."""
    digests: dict[int, bytes] = {}
    widths, groups = vectors_of_width(column)
    problems = dict.fromkeys(np.flatnonzero(widths == -1).tolist(), "vector is missing")
    for rows, vectors in groups.values():
        tests = {
            "vector is all zeros": ~vectors.any(axis=1),
            "vector has an infinite component": np.isinf(vectors).any(axis=1),
            "vector has a NaN or missing component": np.isnan(vectors).any(axis=1),
        }
        for reason, is_bad in tests.items():
            problems |= dict.fromkeys(rows[is_bad].tolist(), reason)
        if vectors.shape[1] <= MAX_WIDTH:
            digests |= dict(zip(rows.tolist(), vector_digests(vectors), strict=True))
    problems |= dict.fromkeys(np.flatnonzero(widths == 0).tolist(), "vector is empty")
    for row in np.flatnonzero(widths > MAX_WIDTH).tolist():
        problems[row] = f"vector has {widths[row]} components; pgvector stores at most {MAX_WIDTH}"
    return digests, problems, widths


def _read_vectors(path: Path, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], NDArray[np.float32]]]:
    """Yield the vectors of some rows (numbers start at 1, ascending), batch by batch."""
    wanted = np.asarray(numbers, np.int64) - 1
    first_row = 0
    with parquet_errors(path), GivenParquet(path) as file:
        for batch in file.batches(["vector"], batch_size=BATCH_SIZE):
            begin, end = np.searchsorted(wanted, [first_row, first_row + batch.num_rows])
            rows = wanted[begin:end]
            if len(rows):
                chosen = batch.column("vector").take(pa.array(rows - first_row))
                ((_, vectors),) = vectors_of_width(chosen)[1].values()
                yield (rows + 1).tolist(), vectors
            first_row += batch.num_rows


def _require_types(file: GivenParquet, columns: Sequence[str]) -> None:
    file.require_vectors("vector")
    file.require_kind("position", "whole numbers")
    for name in columns:
        if name not in ("vector", "position"):
            file.require_kind(name, "text")


def _title(fields: dict[str, Any]) -> str:
    title = fields.get("article_title")
    return (title if isinstance(title, str) and title else fields["article_id"]).replace("\0", "")
