"""Input files: detect their kind, and make a plain copy if they are compressed, piped or in another encoding.

Every command that reads a file uses this module: standard input and pipes are copied to disk, gzip, bzip2, xz and zstd
are unpacked, UTF-16 and UTF-32 are converted to UTF-8, and Arrow files to Parquet.
"""

import bz2
import codecs
import gzip
import json
import lzma
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Any
from zlib import error as ZlibError

import pyarrow as pa
import pyarrow.parquet as pq

from lvm_pipeline.errors import LvmError, ServiceError, first_line
from lvm_pipeline.files import FULL_DISK

STDIN = Path("-")
MAX_LAYERS = 4  # such as UTF-16 in gzip on standard input
HEAD_BYTES = 16


class FileKind(StrEnum):
    """What a file is, by its first bytes."""

    PARQUET = "Parquet"
    ARROW = "Arrow IPC"
    NPZ = "NPZ"
    LINES = "lines of text"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"
    NPY = "NPY"
    PICKLE = "pickle"
    SQLITE = "SQLite"
    HDF5 = "HDF5"
    PDF = "PDF"


MAGIC = {
    b"PAR1": FileKind.PARQUET,
    b"PARE": FileKind.PARQUET,
    b"ARROW1": FileKind.ARROW,
    b"\xff\xff\xff\xff": FileKind.ARROW,  # the streaming format
    b"PK\x03\x04": FileKind.NPZ,
    b"PK\x05\x06": FileKind.NPZ,
    b"\x1f\x8b": FileKind.GZIP,
    b"BZh": FileKind.BZIP2,
    b"\xfd7zXZ\0": FileKind.XZ,
    b"\x28\xb5\x2f\xfd": FileKind.ZSTD,
    b"\x93NUMPY": FileKind.NPY,
    b"\x80\x02": FileKind.PICKLE,
    b"\x80\x03": FileKind.PICKLE,
    b"\x80\x04": FileKind.PICKLE,
    b"\x80\x05": FileKind.PICKLE,
    b"SQLite format 3": FileKind.SQLITE,
    b"\x89HDF\r\n": FileKind.HDF5,
    b"%PDF-": FileKind.PDF,
}
UNPACKED: dict[FileKind, Callable[[Path], Any]] = {
    FileKind.GZIP: gzip.open,
    FileKind.BZIP2: bz2.open,
    FileKind.XZ: lzma.open,
    FileKind.ZSTD: lambda path: pa.input_stream(str(path), compression="zstd"),
}
UNPACK_ERRORS = (OSError, EOFError, ZlibError, lzma.LZMAError, pa.ArrowException, UnicodeError)


def kind_of(path: Path) -> FileKind:
    """Return the kind of a file by its first bytes; unknown files are taken for lines of text.

    Raises:
        LvmError: If it cannot be read.
    """
    head = _head(path)
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), FileKind.LINES)


@contextmanager
def plain_file(path: Path, *, folder: Path | None = None) -> Iterator[Path]:
    """Yield the path of a file that can be read directly: the given one, or a plain copy of the same name.

    Args:
        path: The file; `-` is standard input.
        folder: Where a copy is kept. Default: a temporary folder, deleted when the block ends.

    Raises:
        LvmError: If the file is missing, cannot be read, or is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="lvm-") as temporary:
        yield _plain(path, folder=folder or Path(temporary))


def _plain(path: Path, *, folder: Path) -> Path:
    """Return the path of a plain file; each copy has a folder of its own, so that it keeps the name that was given."""
    shown = Path("input") if path == STDIN else path
    if path == STDIN or _is_piped(path):
        source = sys.stdin.buffer if path == STDIN else None
        path = _copied(folder / "piped" / shown.name, lambda: source or path.open("rb"), shown=shown)
    layer = 0
    while (kind := kind_of(path)) in UNPACKED:
        if layer == MAX_LAYERS:
            raise LvmError(f"{shown} is packed more than {MAX_LAYERS} times; unpack it.")
        copy, layer = folder / f"unpacked-{layer}" / shown.name, layer + 1
        path = _copied(copy, lambda kind=kind, path=path: UNPACKED[kind](path), shown=shown)
    return _converted(path, kind, folder / "converted" / shown.name, shown=shown)


def _is_piped(path: Path) -> bool:
    """Return whether a path is a pipe or a device, which can be read only once."""
    try:
        if path.is_file():
            return False
        if path.is_dir():
            raise LvmError(f"{path} is a folder; name a file in it.")
        if not path.exists():
            raise LvmError(f"There is no file {path}; check the path.")
    except OSError as error:  # a folder on the way cannot be entered, or a name is too long
        raise LvmError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    return True


def _converted(path: Path, kind: FileKind, copy: Path, *, shown: Path) -> Path:
    """Return a copy as Parquet of an Arrow file, or as UTF-8 of lines in another encoding; else the file itself."""
    if kind is FileKind.ARROW:
        return _as_parquet(path, copy, shown=shown)
    encoding = _encoding(path) if kind is FileKind.LINES else None
    return path if encoding is None else _as_utf8(path, copy, encoding=encoding, shown=shown)


@contextmanager
def _copying_to(copy: Path, *, shown: Path) -> Iterator[None]:
    """Create the folder of a copy, and convert the errors of making it to `LvmError`."""
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        yield
    except UNPACK_ERRORS as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise ServiceError(
                f"The disk that holds {copy.parent} is full, so {shown} cannot be copied there; free space, or set "
                "TMPDIR to a folder on another disk."
            ) from None
        reason = getattr(error, "strerror", None) or first_line(error)
        raise LvmError(f"{shown} is damaged or cannot be read ({reason}); copy or write it again.") from None


def _copied(copy: Path, opened: Callable[[], IO[bytes]], *, shown: Path) -> Path:
    with _copying_to(copy, shown=shown), opened() as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target)
    return copy


def _as_parquet(path: Path, copy: Path, *, shown: Path) -> Path:
    """Convert an Arrow file, of the file format or the streaming format."""
    is_file = _head(path).startswith(b"ARROW1")
    with _copying_to(copy, shown=shown), pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        with pq.ParquetWriter(copy, reader.schema) as writer:
            for batch in _batches(reader):
                batch.validate(full=True)
                writer.write_batch(batch)
    return copy


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchStreamReader):
        yield from reader
    else:
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def _as_utf8(path: Path, copy: Path, *, encoding: str, shown: Path) -> Path:
    with _copying_to(copy, shown=shown):
        try:
            with (
                path.open(encoding=encoding, newline="") as source,
                copy.open("w", encoding="utf-8", newline="") as target,
            ):
                shutil.copyfileobj(source, target)
        except UnicodeError as error:
            raise LvmError(f"{shown} looks like {encoding.upper()} and is not ({error}); write it as UTF-8.") from None
    return copy


def _encoding(path: Path) -> str | None:
    """Return the encoding of a file of UTF-16 or UTF-32, with or without a byte order mark; None for any other."""
    head = _head(path)
    found = json.detect_encoding(head[:4]) if head[:4].strip(b"\0") and len(head) >= 4 else "utf-8"
    if len(head) >= 2 and head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        found = found if found.startswith("utf-32") else "utf-16"
    return found if found.startswith(("utf-16", "utf-32")) else None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise LvmError(f"{path} cannot be read ({error.strerror or error}); check the path.") from None
