"""What both imports share: the columns of an NPZ file as this project means them, and the table they go to.

Shapes: N = concepts or sequences in the file, D = vector width.
"""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata, concepts_schema
from lvm_pipeline.concepts.store import ConceptsFingerprint, ConceptsWriter, full_disk_told
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import staged_file
from lvm_pipeline.sequences.npz_arrays import Header, NpzReader
from lvm_pipeline.source.schema import Tmd, pack_tmd, unpack_tmd

_THREE_NUMBERS = re.compile(r"\D*(\d{1,3})\D+(\d{1,3})\D+(\d{1,3})\D*")


def vectors_header(reader: NpzReader, name: str, *, num_axes: int) -> Header:
    """Read the header of an array of vectors.

    Raises:
        LvmError: If it is not a filled array of floats with that many axes.
    """
    header = reader.header(name)
    if header.dtype.kind != "f" or len(header.shape) != num_axes or 0 in header.shape:
        raise reader.error(f"holds {header.dtype} of shape {header.shape} as {name}, not vectors of {num_axes} axes")
    return header


def vector_pieces(reader: NpzReader, name: str, *, num_rows: int | None = None) -> Iterator[NDArray[np.float32]]:
    """Yield vectors along the first axis, as float32.

    Raises:
        LvmError: If one is not finite; names its row.
    """
    first_row = 0
    for piece in reader.pieces(name, num_rows=num_rows):
        with np.errstate(over="ignore"):
            vectors = piece.astype(np.float32)
        is_finite = np.isfinite(vectors.reshape(len(vectors), -1)).all(axis=1)
        if not is_finite.all():
            row = first_row + int(np.flatnonzero(~is_finite)[0])
            raise reader.error(f"holds a number that is not finite (NaN or infinity) in row {row} of {name}")
        yield vectors
        first_row += len(piece)


def names_of(reader: NpzReader, name: str, num_entries: int) -> list[str]:
    """Read ids, whether stored as text, UUIDs or numbers.

    Raises:
        LvmError: If one is missing.
    """
    names = []
    for row, entry in enumerate(reader.entries(name, num_entries)):
        text = str(int(entry)) if isinstance(entry, float) and entry.is_integer() else _text(entry)
        if not isinstance(entry, str | bytes | uuid.UUID | int | float) or not text or text == "nan":
            raise reader.error(f"names nothing in row {row} of {name} ({entry!r})")
        names.append(text)
    return names


def texts_of(reader: NpzReader, name: str, num_entries: int) -> list[str | None]:
    """Read texts; an empty one counts as missing.

    Raises:
        LvmError: If an entry is not text.
    """
    texts = reader.entries(name, num_entries)
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str | bytes):
            raise reader.error(f"holds {text!r} in row {row} of {name}, where text is expected")
    return [_text(text) or None for text in texts]


def tmds_of(reader: NpzReader, name: str, num_entries: int) -> list[Tmd | None]:
    """Read TMD codes: `domain.task.modifier`, packed numbers, or three numbers a row; 16-D vectors give none.

    Raises:
        LvmError: If a code cannot be understood.
    """
    known: dict[Any, Tmd | None] = {}
    codes = []
    for row, entry in enumerate(reader.entries(name, num_entries)):
        value = entry.tolist() if isinstance(entry, np.ndarray) else entry
        key = tuple(value) if isinstance(value, list) else value
        try:
            if key not in known:
                known[key] = _tmd(key)
        except (ValueError, TypeError):
            raise reader.error(f"holds {entry!r} in row {row} of {name}, which is no TMD code") from None
        codes.append(known[key])
    return codes


def _tmd(value: Any) -> Tmd | None:
    if value is None or value in ("", b"") or value != value:  # NaN is not equal to itself
        return None
    if isinstance(value, tuple):
        return _checked(Tmd(*map(_whole, value))) if len(value) == 3 else _no_code(value)
    if isinstance(value, str | bytes) and (numbers := _THREE_NUMBERS.fullmatch(_text(value))):
        return _checked(Tmd(*map(int, numbers.groups())))
    return unpack_tmd(int(value) if isinstance(value, str | bytes) else _whole(value))


def _no_code(value: tuple[Any, ...]) -> None:
    if len(value) != 16:
        raise ValueError(f"{len(value)} numbers")


def _checked(tmd: Tmd) -> Tmd:
    pack_tmd(tmd)  # refuses codes out of range
    return tmd


def _whole(value: Any) -> int:
    if int(value) != value:
        raise ValueError(f"{value} is no whole number")
    return int(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return "" if value is None else str(value)


def metadata_of(reader: NpzReader) -> dict[str, Any]:
    """Read what the file says of itself: JSON text or a dict; nothing where it says nothing."""
    if "metadata" not in reader:
        return {}
    value = reader.single("metadata")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def space_of(reader: NpzReader, declared: dict[str, Any], space_id: str | None, vector_dim: int) -> str:
    """Decide the space of the vectors: what the file says, else what the user says, else undeclared.

    Raises:
        LvmError: If both name a space and not the same.
    """
    in_file = declared.get("space_id")
    if in_file and space_id and in_file != space_id:
        raise LvmError(f"{reader.path} holds vectors of the space {in_file}, not {space_id}; leave the space out.")
    return str(in_file or space_id or f"undeclared-{vector_dim}")


class ImportedTable:
    """A concept table that grows by pieces of rows."""

    def __init__(self, path: Path, *, vector_dim: int):
        """Open the file at `path`."""
        self._schema = concepts_schema(vector_dim)
        self._vector_dim = vector_dim
        self.writer = ConceptsWriter(path, vector_dim=vector_dim)
        self._fingerprint = ConceptsFingerprint()
        self._indices: dict[str, int] = {}
        self.num_rows = 0

    def write(
        self,
        *,
        cpe_ids: Sequence[str],
        article_ids: Sequence[str],
        positions: NDArray[np.int64],
        texts: Sequence[str | None],
        tmds: Sequence[Tmd | None],
        vectors: NDArray[np.float32],
    ) -> None:
        """Add rows; vectors have shape (n, D)."""
        columns: dict[str, Any] = {
            "row": np.arange(self.num_rows, self.num_rows + len(vectors)),
            "cpe_id": cpe_ids,
            "article_id": article_ids,
            "article_index": [self._indices.setdefault(article, len(self._indices)) for article in article_ids],
            "position": positions.astype(np.int32),
            "concept_text": texts,
            **{name: [getattr(tmd, name, None) for tmd in tmds] for name in Tmd._fields},
        }
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field("vector").type)
        for name in self._schema.names:
            columns.setdefault(name, pa.nulls(len(vectors), self._schema.field(name).type))
        self.writer.write(pa.table(columns, schema=self._schema))
        self._fingerprint.update(cpe_ids, article_ids, vectors)
        self.num_rows += len(vectors)

    def finish(
        self, *, space_id: str, source: str, dataset_source: str, order_key: str, order_warning: str | None
    ) -> ConceptsMetadata:
        """Write what the table says of itself."""
        metadata = ConceptsMetadata(
            fingerprint=self._fingerprint.hexdigest(),
            space_id=space_id,
            vector_dim=self._vector_dim,
            source=source,
            dataset_source=dataset_source,
            order_key=order_key,
            num_concepts=self.num_rows,
            num_articles=len(self._indices),
            num_source_rows=self.num_rows,
            duplicates_policy="fail",
            order_warning=order_warning,
        )
        self.writer.finish(metadata)
        return metadata


@contextmanager
def imported_table(path: Path, *, vector_dim: int) -> Iterator[ImportedTable]:
    """Give a table to fill; it is at `path` when the block, which calls `finish`, ends well.

    Raises:
        LvmError: If the disk is full or a text cannot be stored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_told(path.parent), staged_file(path) as staged:
        table = ImportedTable(staged, vector_dim=vector_dim)
        try:
            yield table
        except BaseException as error:
            table.writer.abandon()
            if isinstance(error, UnicodeEncodeError):
                raise LvmError(f"A text cannot be stored ({error}); correct the texts of the file.") from None
            raise
