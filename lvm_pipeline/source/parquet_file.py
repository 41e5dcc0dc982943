"""Read Parquet files that were written by other programs: check their columns, and read values that may be invalid.

Shapes: n = rows of a batch, D = vector width.
"""

import io
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.source.values import parse_json

ARROW_SCHEMA, HIDDEN_SCHEMA = b"ARROW:schema", b"-RROW:schema"
MAGIC = b"PAR1"
PARQUET_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, OverflowError)


@contextmanager
def parquet_errors(path: Path, *, remedy: str = "restore the file and try again") -> Iterator[None]:
    """Convert the errors of reading a missing or damaged Parquet file to `LvmError`."""
    try:
        yield
    except PARQUET_ERRORS as error:
        raise LvmError(f"{path} cannot be read as Parquet ({first_line(error)}); {remedy}.") from None


class GivenParquet:
    """A Parquet file of another program; use as a context manager, inside `parquet_errors`.

    Attributes:
        path: The file.
        schema: Its columns, with the Arrow types that the program which wrote it had.
        space_id: Space of the vectors, if the file declares one.
    """

    def __init__(self, path: Path):
        """Open the file.

        Raises:
            LvmError: If its metadata cannot be read.
        """
        self.path, self.schema = path, pq.read_schema(path)
        metadata = self.schema.metadata or {}
        self.space_id = declared_space(metadata, path=path)
        # pyarrow refuses fixed-size lists with a null in them, which the Arrow schema asks for; lists can hold it.
        self._file = pq.ParquetFile(path, metadata=_without_arrow_schema(path))

    def __enter__(self) -> "GivenParquet":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def batches(self, columns: Sequence[str], *, batch_size: int) -> Iterator[pa.RecordBatch]:
        """Yield some columns, batch by batch."""
        yield from self._file.iter_batches(batch_size, columns=list(columns))

    def require(self, required: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
        """Return the named columns that exist.

        Raises:
            LvmError: If a required one is missing, or a name occurs twice.
        """
        counts = Counter(self.schema.names)
        missing = [name for name in required if not counts[name]]
        if missing:
            raise LvmError(
                f"{self.path.name} has no column {', '.join(missing)} (it has {', '.join(self.schema.names)}); "
                f"it needs {', '.join(required)}: rename or add them."
            )
        chosen = [name for name in (*required, *optional) if counts[name]]
        for name in chosen:
            if counts[name] > 1:
                raise LvmError(f"{self.path.name} has {counts[name]} columns {name}; rename all but one.")
        return chosen

    def require_vectors(self, name: str) -> None:
        """Check that a column holds lists of floats."""
        if not _is_vectors(self.schema.field(name).type):
            raise LvmError(
                f"The column {name} of {self.path.name} is {self.schema.field(name).type}; expected a list of floats."
            )

    def vector_columns(self) -> list[str]:
        """Return the names of all columns that hold lists of floats."""
        return [field.name for field in self.schema if _is_vectors(field.type)]

    def require_kind(self, name: str, what: str) -> None:
        """Check that a column holds text or whole numbers, and no booleans, times or structures."""
        kind = self.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_uuid = isinstance(kind, pa.UuidType)
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not (is_uuid or is_number or _is_text(kind) or pa.types.is_null(kind)):
            raise LvmError(f"The column {name} of {self.path.name} is {kind}; expected {what}.")

    def values(self, batch: pa.RecordBatch, name: str) -> list[Any]:
        """Return the values of a column of text or numbers; bytes where a text is not UTF-8."""
        column = batch.column(name)
        if isinstance(self.schema.field(name).type, pa.UuidType):
            storage = column.storage if isinstance(column, pa.ExtensionArray) else column
            return [None if raw is None else uuid.UUID(bytes=raw) for raw in storage.to_pylist()]
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            return _decoded_values(column)


def vectors_of_width(
    array: pa.Array,
) -> tuple[NDArray[np.int64], dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]]:
    """Group the rows of a list array by width.

    Returns:
        The width of each row (-1 for null), and for each width its rows and their vectors, shape (n, width); a missing
        component is NaN.
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


def declared_space(metadata: dict[bytes, bytes], *, path: Path) -> str | None:
    """Return the space id in the metadata of a file, as `space_id` or as in `concepts.parquet`.

    Raises:
        LvmError: If it cannot be read.
    """
    try:
        if b"space_id" in metadata:
            return metadata[b"space_id"].decode()
        values = parse_json(metadata[b"lvm"]) if b"lvm" in metadata else {}
    except ValueError:
        raise LvmError(
            f"The metadata of {path.name} names a vector space that cannot be read (expected UTF-8 text or JSON); "
            "correct it."
        ) from None
    space_id = values.get("space_id") if isinstance(values, dict) else values
    if not isinstance(space_id, str | None):
        raise LvmError(f"The space_id in the metadata of {path.name} is not text; correct it.")
    return space_id


def _is_vectors(kind: pa.DataType) -> bool:
    shape = getattr(kind, "shape", ())
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type) and len(shape) <= 1


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _decoded_values(column: pa.Array) -> list[Any]:
    """Return texts, or lists of texts, with bytes in place of those that are not UTF-8."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        items, bounds = _decoded_values(column.values), pairwise(column.offsets.to_pylist())
        rows = zip(column.is_valid().to_pylist(), bounds, strict=True)
        return [items[start:stop] if is_there else None for is_there, (start, stop) in rows]
    kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    return [_decoded(raw) for raw in column.view(kind).to_pylist()]


def _decoded(raw: bytes | None) -> str | bytes | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return raw


def _without_arrow_schema(path: Path) -> pq.FileMetaData:
    """Return the metadata of a file without the Arrow schema that its writer added: the columns as Parquet has them."""
    with path.open("rb") as file:
        file.seek(-8, io.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, io.SEEK_END)
        footer = file.read(length).replace(ARROW_SCHEMA, HIDDEN_SCHEMA)
    return pq.read_metadata(io.BytesIO(MAGIC + footer + length.to_bytes(4, "little") + MAGIC))
