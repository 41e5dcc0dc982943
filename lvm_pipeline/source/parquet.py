"""Parquet files of concepts or of articles.

A row is a concept, with the columns `article_id, position, concept_text, vector` and optionally `cpe_id,
article_title`, or an article, with the columns `title`, `text` or `concepts`, and optionally `article_id`, as in JSON
lines. Concepts without the column `vector`, and articles, are encoded when they are loaded. Positions count from 0, or
from 1 in every article.

Vectors are read batch by batch, after all rows have been checked.

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

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.article_reader import ArticleReader
from lvm_pipeline.source.articles import make_cpe_id
from lvm_pipeline.source.parquet_file import GivenParquet, parquet_errors, vectors_of_width
from lvm_pipeline.source.records import BadRow, Concept, SourceRecords, article_id_of, text_problem, vector_digests
from lvm_pipeline.source.values import whole_number

LARGEST_POSITION = np.iinfo(np.int32).max
BATCH_SIZE = 2_048
MAX_WIDTH = 16_000  # of pgvector
REQUIRED_COLUMNS = ("article_id", "position", "concept_text")
OPTIONAL_COLUMNS = ("cpe_id", "article_title")
CONTENT_COLUMNS = ("text", "concepts")  # of an article
VECTOR = "vector"


def read_parquet(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check every row of a file of concepts with vectors.

    Raises:
        LvmError: If the file is damaged, or a column is missing or of another type.
    """
    with parquet_errors(path), GivenParquet(path) as file:
        return _read_concepts(file, (*REQUIRED_COLUMNS, VECTOR), dataset_source=dataset_source)


def read_parquet_or_texts(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check every row of a file of concepts, with or without vectors, or of articles.

    Raises:
        LvmError: If the file is damaged, or a column is missing or of another type.
    """
    with parquet_errors(path), GivenParquet(path) as file:
        names = set(file.schema.names)
        if VECTOR not in names and (others := file.vector_columns()):
            raise LvmError(
                f"{path.name} has no column {VECTOR}, but {', '.join(others)} with lists of numbers; rename the one "
                f"that holds the vectors of the concepts to {VECTOR}, or remove them to have the texts encoded."
            )
        if VECTOR in names or "concept_text" in names:
            required = [*REQUIRED_COLUMNS, *([VECTOR] if VECTOR in names else [])]
            return _read_concepts(file, required, dataset_source=dataset_source)
        if "title" in names and names & set(CONTENT_COLUMNS):
            return _read_articles(file, dataset_source=dataset_source)
        raise LvmError(
            f"{path.name} has the columns {', '.join(file.schema.names)}. A file of concepts needs "
            f"{', '.join(REQUIRED_COLUMNS)} (and {VECTOR}, if they are encoded already), a file of articles needs "
            "title, and text or concepts; rename or add columns."
        )


def _read_concepts(file: GivenParquet, required: Sequence[str], *, dataset_source: str) -> SourceRecords:
    columns = file.require(required, OPTIONAL_COLUMNS)
    _require_types(file, columns)
    checker, path, has_vectors = _RowChecker(dataset_source), file.path, VECTOR in columns
    for batch in file.batches(columns, batch_size=BATCH_SIZE):
        values = {name: file.values(batch, name) for name in columns if name != VECTOR}
        checker.add(values, batch.column(VECTOR) if has_vectors else None)
    concepts, vector_dim = checker.finish()
    return SourceRecords(
        path=path,
        row_kind="row",
        concepts=concepts,
        bad_rows=sorted(checker.bad_rows, key=lambda bad: bad.number),
        gaps=sorted(checker.gaps, key=lambda gap: gap.number),
        read_vectors=(lambda numbers: _read_vectors(path, numbers)) if has_vectors else None,
        vector_dim=vector_dim,
        space_id=file.space_id,
    )


def _read_articles(file: GivenParquet, *, dataset_source: str) -> SourceRecords:
    columns = file.require(["title"], [*CONTENT_COLUMNS, "article_id"])
    reader, concepts, bad_rows, number = ArticleReader(dataset_source, row_kind="row"), [], [], 0
    for batch in file.batches(columns, batch_size=BATCH_SIZE):
        values = [file.values(batch, name) for name in columns]
        for fields in zip(*values, strict=True):
            number += 1
            try:
                article = reader.article(dict(zip(columns, fields, strict=True)), number=number)
            except ValueError as error:
                bad_rows.append(BadRow(kind="row", number=number, reason=str(error)))
            else:
                concepts += reader.concepts(article, number=number)
    return SourceRecords(path=file.path, row_kind="row", concepts=concepts, bad_rows=bad_rows)


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

    def add(self, values: dict[str, list[Any]], vectors: pa.Array | None) -> None:
        """Check the rows of a batch; `vectors` are None in a file without any."""
        digests, problems, widths = ({}, {}, None) if vectors is None else _examined_vectors(vectors)
        for row in range(len(values["article_id"])):
            self._num_rows += 1
            fields = {name: column[row] for name, column in values.items()}
            try:
                self._register_position(fields)
                if row in problems:
                    raise ValueError(problems[row])
                self._concepts[self._num_rows] = self._concept(fields, digest=digests.get(row))
                if widths is not None:
                    self._widths[self._num_rows] = int(widths[row])
            except ValueError as error:
                self._reject(self._num_rows, str(error))

    def finish(self) -> tuple[list[Concept], int | None]:
        """Check what needs the whole file; return the good concepts in file order and their vector width."""
        if not self._concepts:
            return [], None
        vector_dim = Counter(self._widths.values()).most_common(1)[0][0] if self._widths else None
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

    def _concept(self, fields: dict[str, Any], *, digest: bytes | None) -> Concept:
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
        first = int(all(min(positions) == 1 for positions in articles.values()))
        for article_id, positions in articles.items():
            expected = first
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
        for batch in file.batches([VECTOR], batch_size=BATCH_SIZE):
            begin, end = np.searchsorted(wanted, [first_row, first_row + batch.num_rows])
            rows = wanted[begin:end]
            if len(rows):
                chosen = batch.column(VECTOR).take(pa.array(rows - first_row))
                ((_, vectors),) = vectors_of_width(chosen)[1].values()
                yield (rows + 1).tolist(), vectors
            first_row += batch.num_rows


def _require_types(file: GivenParquet, columns: Sequence[str]) -> None:
    if VECTOR in columns:
        file.require_vectors(VECTOR)
    file.require_kind("position", "whole numbers")
    for name in columns:
        if name not in (VECTOR, "position"):
            file.require_kind(name, "text")


def _title(fields: dict[str, Any]) -> str:
    title = fields.get("article_title")
    return (title if isinstance(title, str) and title else fields["article_id"]).replace("\0", "")
