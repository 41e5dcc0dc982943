"""The concept table on disk: written in row groups of whole articles, read back in pieces.

Vectors are stored byte-split and compressed with zstd at its fastest level, other columns with a dictionary where that
is smaller; `benchmarks/parquet_encodings.py` compares the alternatives.

Shapes: N = concepts in the table, A = articles, D = vector width.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline import files
from lvm_pipeline.concepts.content import ContentFingerprints
from lvm_pipeline.concepts.schema import (
    DIGEST_COLUMN,
    DIGEST_FIELD,
    ConceptsMetadata,
    concepts_schema,
    explain_bad_metadata,
    explain_bad_parquet,
    read_concepts_metadata,
    read_file_metadata,
)
from lvm_pipeline.errors import LvmError, ServiceError
from lvm_pipeline.findings import Finding
from lvm_pipeline.words import counted

SOURCE_FINDINGS_KEY = b"lvm_source_findings"
ROW_GROUP_CONCEPTS = 4096
NUM_ARRAYS_KEPT = 3
VECTOR_LEAF = "vector.list.element"
WRITER_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "write_page_checksum": True,
    "column_encoding": {VECTOR_LEAF: "BYTE_STREAM_SPLIT"},
    "use_dictionary": [DIGEST_COLUMN, "article_id", "article_index", "domain", "task", "modifier", "created_at"],
    "write_statistics": ["row", "article_id", "article_index", "position"],
}


class ConceptsFingerprint:
    """Order-sensitive hash of ids, articles and vectors, the same however the rows are cut into pieces."""

    def __init__(self) -> None:
        self._ids = hashlib.sha256()
        self._vectors = hashlib.sha256()

    def update(self, cpe_ids: Sequence[str], article_ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add rows in order; vectors have shape (n, D)."""
        lines = [f"{cpe_id}\n{article_id}\n" for cpe_id, article_id in zip(cpe_ids, article_ids, strict=True)]
        self._ids.update("".join(lines).encode())
        self._vectors.update(np.ascontiguousarray(vectors, dtype="<f4").data)

    def hexdigest(self) -> str:
        return hashlib.sha256(self._ids.digest() + self._vectors.digest()).hexdigest()


class ConceptsWriter:
    """Writes rows of the concept table as they come, in row groups that end where an article ends.

    Groups are compressed and written in a background thread, so a disk error is raised by a later call, `finish` at the
    latest.
    """

    def __init__(self, path: Path, *, vector_dim: int, has_digests: bool = False):
        """Open the file at `path`, whose folder must exist; use as a context manager, or call `abandon` on errors."""
        self._schema = concepts_schema(vector_dim)
        if has_digests:
            self._schema = self._schema.append(DIGEST_FIELD)
        self._writer = pq.ParquetWriter(path, self._schema, **WRITER_OPTIONS)
        self._content = ContentFingerprints()
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="concepts-writer")
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abandon()

    def write(self, table: pa.Table) -> None:
        """Add rows that follow those written before; the last article may go on in the next call."""
        self._waiting.append(table if table.schema.equals(self._schema) else table.cast(self._schema))
        self._content.update(self._waiting[-1])
        self._num_waiting += table.num_rows
        if self._num_waiting >= ROW_GROUP_CONCEPTS:
            self._write_whole_articles()

    def _write_whole_articles(self) -> None:
        rows = pa.concat_tables(self._waiting)
        articles = rows["article_index"].to_numpy()
        ends = np.flatnonzero(np.diff(articles)) + 1  # where an article ends and another begins
        start = 0
        while (group := ends[ends >= start + ROW_GROUP_CONCEPTS]).size:
            self._write_group(rows.slice(start, group[0] - start))
            start = int(group[0])
        self._waiting = [rows.slice(start)]
        self._num_waiting = rows.num_rows - start

    def _write_group(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._wait()  # at most one group is in memory beside the one that is written
            self._written = self._thread.submit(self._write_now, rows)

    def _write_now(self, rows: pa.Table) -> None:
        # In one piece, so that pages do not depend on how the rows came.
        self._writer.write_table(rows.combine_chunks(), row_group_size=rows.num_rows)

    def _wait(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def finish(self, metadata: ConceptsMetadata, *, source_findings: Iterable[Finding] = ()) -> ConceptsMetadata:
        """Write the remaining rows and the metadata, and close the file; return them with the content fingerprints."""
        metadata = replace(metadata, content_fingerprints=self._content.hexdigests())
        if self._waiting:
            self._write_group(pa.concat_tables(self._waiting))
        self._wait()
        self._thread.shutdown()
        findings = json.dumps([finding.as_json() for finding in source_findings]).encode()
        self._writer.add_key_value_metadata({**metadata.as_parquet_metadata(), SOURCE_FINDINGS_KEY: findings})
        self._writer.close()
        return metadata

    def abandon(self) -> None:
        self._thread.shutdown()  # after the group that it writes
        with suppress(OSError, pa.ArrowException):  # on a full disk even closing fails
            self._writer.close()


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Convert the errors of a full disk, quota or file size limit to `LvmError`."""
    try:
        yield
    except OSError as error:
        if error.errno in files.FULL_DISK:
            raise ServiceError(
                f"The disk that holds {folder} is full; free space and try again (existing files are unchanged)."
            ) from None
        raise


def read_source_findings(path: Path) -> list[Finding]:
    """Read the findings of the extraction; empty for files from another source.

    Raises:
        LvmError: If they are damaged.
    """
    raw = read_file_metadata(path).get(SOURCE_FINDINGS_KEY)
    with explain_bad_metadata(path, remedy="extract the concepts again"):
        return [Finding.from_json(values) for values in json.loads(raw)] if raw else []


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Read some columns of the whole table; for vectors use `memory_mapped_vectors`.

    Raises:
        LvmError: If the file is missing, damaged or lacks a column.
    """
    read_concepts_metadata(path)
    with explain_bad_parquet(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        missing = set(names) - set(file.schema_arrow.names)
        if not missing:
            table = file.read(columns=list(names))
            _require_utf8(path, table, first_row=0)
            return table
    raise LvmError(f"{path} has no column {', '.join(sorted(missing))}; extract the concepts again.")


def read_texts(path: Path, rows: Iterable[int]) -> list[str]:
    """Read the texts of some rows; a missing text is empty.

    Raises:
        LvmError: If the file is missing or damaged.
    """
    return texts_at(read_columns(path, ["concept_text"])["concept_text"], rows)


def texts_at(texts: pa.ChunkedArray, rows: Iterable[int]) -> list[str]:
    """Return some texts of a column; a missing text is empty. Arrow's `take` fails on columns of over 2 GB."""
    return [texts[int(row)].as_py() or "" for row in rows]


def stream_row_groups(path: Path, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns row group by row group, so that memory holds one at a time.

    Raises:
        LvmError: If the file is damaged.
    """
    first_row = 0
    with explain_bad_parquet(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(names))
            _require_utf8(path, table, first_row=first_row)
            first_row += table.num_rows
            yield table


def _require_utf8(path: Path, table: pa.Table, *, first_row: int) -> None:
    """Check that texts are UTF-8, which Parquet does not; name the first row that is not, counted from 0."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not pa.types.is_string(column.type):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            for row, raw in enumerate(column.cast(pa.binary()).to_pylist(), first_row):
                if raw is not None and not _is_utf8(raw):
                    raise LvmError(
                        f"The {name} of row {row} of {path} is not UTF-8; correct it, or extract the concepts again."
                    ) from error
            raise


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def vectors_of(table: pa.Table, vector_dim: int) -> NDArray[np.float32]:
    """Return the column `vector` of some rows as an array (n, D), without a copy where the rows are in one piece.

    Raises:
        LvmError: If a vector is missing.
    """
    column = table["vector"]
    if column.null_count:
        raise LvmError(
            f"{counted(column.null_count, 'concept has', 'concepts have')} no vector; "
            "run `lvm verify --products` to see which."
        )
    flat = column.chunk(0).flatten() if column.num_chunks == 1 else column.combine_chunks().flatten()
    if len(flat) != len(column) * vector_dim:
        raise LvmError(
            f"The vectors are not all of the width {vector_dim} that their table names; run `lvm verify --products`."
        )
    return flat.to_numpy(zero_copy_only=not flat.null_count).reshape(-1, vector_dim)


def read_vectors(path: Path) -> NDArray[np.float32]:
    """Read all vectors into memory, shape (N, D). `memory_mapped_vectors` shares one copy between processes."""
    metadata = read_concepts_metadata(path)
    with explain_bad_parquet(path):
        num_concepts = pq.read_metadata(path).num_rows
    vectors = np.empty((num_concepts, metadata.vector_dim), np.float32)
    row = 0
    for block in _vector_blocks(path, vectors.shape):
        vectors[row : row + len(block)] = block
        row += len(block)
    return vectors


def memory_mapped_vectors(concepts_path: Path, vectors_dir: Path) -> np.memmap:
    """Return all vectors, shape (N, D), as a read-only memory map of an array file.

    The file is written once for each fingerprint. The map stays valid if another process deletes the file.

    Raises:
        LvmError: If the table is damaged or the disk is full.
    """
    metadata = read_concepts_metadata(concepts_path)
    path = vectors_dir / f"{metadata.fingerprint}.npy"
    shape = (metadata.num_concepts, metadata.vector_dim)
    vectors = _mapped(path, shape)
    if vectors is None:
        with files.staged_file(path) as staged, explain_full_disk(vectors_dir):
            # Written, not mapped: a full disk is an error of a write, but kills a process that fills a mapped file.
            with staged.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for block in _vector_blocks(concepts_path, shape):
                    file.write(np.ascontiguousarray(block, dtype="<f4").data)
            vectors = _mapped(staged, shape)  # before another process can delete the file
        assert vectors is not None
    files.mark_used(path)
    files.prune_cache(vectors_dir, "*.npy", num_kept=NUM_ARRAYS_KEPT)
    return vectors


def _vector_blocks(path: Path, shape: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    num_concepts = 0
    for table in stream_row_groups(path, ["vector"]):
        num_concepts += table.num_rows
        yield vectors_of(table, shape[1])
    if num_concepts != shape[0]:
        raise LvmError(f"{path} holds {num_concepts:,} concepts where it says {shape[0]}; extract the concepts again.")


def _mapped(path: Path, shape: tuple[int, int]) -> np.memmap | None:
    """Map an array file; None if it is missing or damaged."""
    try:
        vectors = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


@dataclass(frozen=True, kw_only=True)
class Articles:
    """Where each article lies in the table, in reading order."""

    ids: list[str]  # article ids, A of them
    first_rows: NDArray[np.int64]  # row of each article's first concept, shape (A,)
    lengths: NDArray[np.int64]  # concepts of each article, shape (A,)


def article_ranges(path: Path) -> Articles:
    """Find where each article lies. Raises LvmError if the file is damaged, or an article has two runs."""
    encoded = read_columns(path, ["article_id"])["article_id"].combine_chunks().dictionary_encode()
    codes = np.from_dlpack(encoded.indices)  # `to_numpy` imports pandas
    first_rows = np.flatnonzero(np.diff(codes, prepend=-1))
    ids = encoded.dictionary.to_pylist()
    if len(first_rows) != len(ids):
        raise LvmError(f"{path} has articles in more than one run; run `lvm verify --products` to see which.")
    return Articles(ids=ids, first_rows=first_rows, lengths=np.diff(first_rows, append=len(codes)))
