"""Parquet files with the columns `article_id, position, concept_text, vector` and optionally `cpe_id, article_title`.

The file is read twice, batch by batch: once to check every row, once for the vectors of the rows that are loaded.

Shapes: n = rows of a batch, D = vector width.
"""

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.articles import make_cpe_id
from lvm_pipeline.source.records import BadRow, Concept, SourceRecords, text_problem, vector_digests

MAGIC = b"PAR1"
BATCH_SIZE = 2_048
MAX_WIDTH = 16_000  # of pgvector
REQUIRED_COLUMNS = ("article_id", "position", "concept_text", "vector")
OPTIONAL_COLUMNS = ("cpe_id", "article_title")


def is_parquet(path: Path) -> bool:
    """Return whether a file starts with the magic bytes of Parquet."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_parquet(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check every row. Raises LvmError if the file is damaged or has a missing column."""
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(path, file.schema_arrow)
            checker = _RowChecker(dataset_source)
            columns = [*REQUIRED_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in file.schema_arrow.names)]
            for batch in file.iter_batches(BATCH_SIZE, columns=columns):
                checker.add(batch)
            space_id = declared_space(file.schema_arrow.metadata or {})
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LvmError(f"{path} cannot be read as Parquet ({reason}); restore the file and load it again.") from None
    concepts, vector_dim = checker.finish()
    return SourceRecords(
        path=path,
        row_kind="row",
        concepts=concepts,
        bad_rows=sorted(checker.bad_rows, key=lambda bad: bad.number),
        read_vectors=lambda numbers: _read_vectors(path, numbers),
        vector_dim=vector_dim,
        space_id=space_id,
    )


def vectors_of_width(
    array: pa.Array,
) -> tuple[NDArray[np.int64], dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]]:
    """Return the width of each row of a list array (-1 for null), and for each width its rows and vectors, (n, width).

    A missing component is NaN.
    """
    is_there = np.asarray(array.is_valid())
    lists = array.filter(pa.array(is_there))
    if isinstance(lists, pa.FixedSizeListArray):
        lengths = np.full(len(lists), lists.type.list_size, np.int64)
    else:
        lengths = np.asarray(lists.value_lengths(), np.int64)
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are reported
        values = np.asarray(lists.flatten().to_numpy(zero_copy_only=False)).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    widths = np.full(len(array), -1, np.int64)
    widths[is_there] = lengths
    rows = np.flatnonzero(is_there)
    groups = {}
    for width in np.unique(lengths).tolist():
        has_width = np.flatnonzero(lengths == width)
        groups[width] = rows[has_width], values[starts[has_width][:, None] + np.arange(width)]
    return widths, groups


class _RowChecker:
    """Collects the good concepts and the bad rows of a file, batch by batch."""

    def __init__(self, dataset_source: str):
        self.bad_rows: list[BadRow] = []
        self._dataset_source = dataset_source
        self._concepts: dict[int, Concept] = {}  # by row number
        self._widths: dict[int, int] = {}
        self._num_rows = 0
        self._cpe_ids: dict[str, int] = {}
        self._positions: dict[tuple[str, int], int] = {}  # (article, position) -> row number

    def add(self, batch: pa.RecordBatch) -> None:
        values = {name: batch.column(name).to_pylist() for name in batch.schema.names if name != "vector"}
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
        if isinstance(fields["article_id"], int | uuid.UUID):
            fields["article_id"] = str(fields["article_id"])
        if problem := text_problem(fields["article_id"], name="article_id"):
            raise ValueError(problem)
        article_id, position = fields["article_id"], fields["position"]
        if position is None or position < 0:
            raise ValueError("position is missing" if position is None else f"position is {position}, below 0")
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
            title=str(fields.get("article_title") or fields["article_id"]).replace("\0", ""),
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
                    self.bad_rows.append(
                        BadRow(kind="row", number=self._positions[article_id, position], reason=reason)
                    )
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
        digests |= dict(zip(rows.tolist(), vector_digests(vectors), strict=True))
    problems |= dict.fromkeys(np.flatnonzero(widths == 0).tolist(), "vector is empty")
    return digests, problems, widths


def _read_vectors(path: Path, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], NDArray[np.float32]]]:
    """Yield the vectors of some rows (numbers start at 1, ascending), batch by batch."""
    wanted = np.asarray(numbers, np.int64) - 1
    first_row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_SIZE, columns=["vector"]):
            begin, end = np.searchsorted(wanted, [first_row, first_row + batch.num_rows])
            rows = wanted[begin:end]
            if len(rows):
                chosen = batch.column("vector").take(pa.array(rows - first_row))
                ((_, vectors),) = vectors_of_width(chosen)[1].values()
                yield (rows + 1).tolist(), vectors
            first_row += batch.num_rows


def _check_schema(path: Path, schema: pa.Schema) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in schema.names]
    if missing:
        raise LvmError(
            f"{path.name} has no column {', '.join(missing)} (it has {', '.join(schema.names)}); "
            f"a file with vectors needs {', '.join(REQUIRED_COLUMNS)}."
        )
    vector, position = schema.field("vector").type, schema.field("position").type
    is_list = pa.types.is_list(vector) or pa.types.is_large_list(vector) or pa.types.is_fixed_size_list(vector)
    if not is_list or not pa.types.is_floating(vector.value_type):
        raise LvmError(f"The column vector of {path.name} is {vector}; expected a list of floats.")
    if not pa.types.is_integer(position):
        raise LvmError(f"The column position of {path.name} is {position}; expected integers.")
    if pa.types.is_fixed_size_list(vector) and vector.list_size > MAX_WIDTH:
        raise LvmError(
            f"The vectors of {path.name} have {vector.list_size} components; pgvector stores at most {MAX_WIDTH}."
        )


def declared_space(metadata: dict[bytes, bytes]) -> str | None:
    """Return the space id in the metadata of a file, as `space_id` or as in `concepts.parquet`."""
    if b"space_id" in metadata:
        return metadata[b"space_id"].decode()
    return json.loads(metadata[b"lvm"]).get("space_id") if b"lvm" in metadata else None
