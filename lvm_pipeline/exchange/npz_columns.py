"""Read the columns of an NPZ file: vectors, ids, texts, TMD codes and metadata, in the forms they are found in.

Every function raises an LvmError that names array and row if a value cannot be used.

Shapes: N = concepts or sequences in the file, D = vector width.
"""

import re
import reprlib
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange.npz_file import NpzReader
from lvm_pipeline.source.schema import Tmd, pack_tmd, unpack_tmd
from lvm_pipeline.source.space_ids import undeclared_space
from lvm_pipeline.source.values import parse_json, whole_number

_THREE_NUMBERS = re.compile(r"\D*(\d{1,3})\D+(\d{1,3})\D+(\d{1,3})\D*")


def vectors_shape(reader: NpzReader, name: str, *, num_axes: int) -> tuple[int, ...]:
    """Read the shape of an array of vectors."""
    header = reader.header(name)
    if header.dtype.kind != "f" or len(header.shape) != num_axes or 0 in header.shape:
        raise reader.error(f"holds {header.dtype} of shape {header.shape} as {name}, not vectors of {num_axes} axes")
    return header.shape


def vector_pieces(reader: NpzReader, name: str, *, num_rows: int | None = None) -> Iterator[NDArray[np.float32]]:
    """Yield vectors along the first axis, as float32."""
    first_row = 0
    for piece in reader.pieces(name, num_rows=num_rows):
        with np.errstate(over="ignore"):
            vectors = piece.astype(np.float32)
        is_finite = np.isfinite(vectors.reshape(len(vectors), -1)).all(axis=1)
        if not is_finite.all():
            row = first_row + int(is_finite.argmin())
            raise reader.error(f"holds a number that is not finite (NaN or infinity) in row {row} of {name}")
        yield vectors
        first_row += len(piece)


def names_of(reader: NpzReader, name: str, num_entries: int) -> list[str]:
    """Read ids that are stored as text, UUIDs or numbers."""
    names = []
    for row, entry in enumerate(reader.entries(name, num_entries)):
        text = str(int(entry)) if isinstance(entry, float) and entry.is_integer() else _text(entry)
        is_name = isinstance(entry, str | bytes | uuid.UUID | int | float) and not isinstance(entry, bool)
        if not is_name or not text or text == "nan":
            raise reader.error(f"has no name in row {row} of {name} ({reprlib.repr(entry)})")
        names.append(text)
    return names


def texts_of(reader: NpzReader, name: str, num_entries: int) -> list[str | None]:
    """Read texts; an empty one counts as missing."""
    texts = reader.entries(name, num_entries)
    return [_checked_text(reader, text, name, row) for row, text in enumerate(texts)]


def _checked_text(reader: NpzReader, text: object, name: str, row: int) -> str | None:
    if text is not None and not isinstance(text, str | bytes):
        raise reader.error(f"holds {reprlib.repr(text)} in row {row} of {name}, where text is expected")
    return _text(text) or None


def tmds_of(reader: NpzReader, name: str, num_entries: int) -> list[Tmd | None]:
    """Read TMD codes: `domain.task.modifier`, packed numbers, or three numbers per row; 16-D vectors give none."""
    known: dict[Any, Tmd | None] = {}
    codes = []
    for row, entry in enumerate(reader.entries(name, num_entries)):
        value = entry.tolist() if isinstance(entry, np.ndarray) else entry
        key = tuple(value) if isinstance(value, list) else value
        try:
            if key not in known:
                known[key] = _tmd(key)
        except (ValueError, TypeError):
            raise reader.error(f"holds {reprlib.repr(entry)} in row {row} of {name}, which is not a TMD code") from None
        codes.append(known[key])
    return codes


def _tmd(value: Any) -> Tmd | None:
    if value is None or value in ("", b"") or value != value:  # NaN is not equal to itself
        return None
    if isinstance(value, tuple) and len(value) == 16:
        return None
    numbers = value if isinstance(value, tuple) else None
    if isinstance(value, str | bytes) and (match := _THREE_NUMBERS.fullmatch(_text(value))):
        numbers = match.groups()
    if numbers is None:
        return unpack_tmd(whole_number(value))
    tmd = Tmd(*map(whole_number, numbers))
    pack_tmd(tmd)  # raises if a code is out of range
    return tmd


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return "" if value is None else str(value)


def metadata_of(reader: NpzReader, *, num_records: int | None = None) -> dict[str, Any]:
    """Read the metadata of the file, JSON text or a dict; empty if there are none or they cannot be read.

    An array of `num_records` holds the metadata of each sequence, not of the file; see `records_of`.
    """
    if "metadata" not in reader or (num_records != 1 and reader.header("metadata").shape == (num_records,)):
        return {}
    value = reader.single("metadata")
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def records_of(reader: NpzReader, name: str, num_entries: int) -> list[dict[str, Any]]:
    """Read an array with one dict, or JSON text of one, for each sequence; empty if it has another form."""
    header = reader.header(name)
    if header.shape != (num_entries,) or not (header.dtype.hasobject or header.dtype.kind == "U"):
        return []
    records = [_record_of(entry) for entry in reader.entries(name, num_entries)]
    return [] if None in records else [record for record in records if record is not None]


def _record_of(entry: object) -> dict[str, Any] | None:
    try:
        value = parse_json(entry) if isinstance(entry, str) else entry
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def text_rows_of(reader: NpzReader, name: str, num_entries: int, width: int) -> list[list[str | None]]:
    """Read an array of texts of two axes as one list for each row."""
    header = reader.header(name)
    if header.shape != (num_entries, width):
        raise reader.error(f"has shape {header.shape} for {name}, where {(num_entries, width)} is expected")
    entries = reader.entries(name, num_entries)
    flat = entries if header.dtype.hasobject else [text for row in entries for text in row]
    texts = [_checked_text(reader, text, name, number // width) for number, text in enumerate(flat)]
    return [texts[start : start + width] for start in range(0, len(texts), width)]


def space_of(reader: NpzReader, metadata: dict[str, Any], space_id: str | None, vector_dim: int) -> str:
    """Return the space of the vectors: the one in the file, else `space_id`, else `undeclared-<D>`."""
    in_file = metadata.get("space_id")
    if in_file and space_id and in_file != space_id:
        raise LvmError(f"{reader.path} holds vectors of the space {in_file}, not {space_id}; leave the space out.")
    return str(in_file or space_id or undeclared_space(vector_dim))
