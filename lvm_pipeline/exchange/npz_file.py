"""Read and write the arrays of an NPZ file in pieces, so that memory holds one piece at a time.

An NPZ file is a zip of `.npy` members: a short header (shape, type) and the bytes of one array. The reader
compares the shape that a header claims with the size of the content before it allocates anything. Its methods raise an
LvmError if the file is damaged or contains something unexpected.
"""

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange.npz_objects import MAX_OBJECT_BYTES, RefusedObjectsError, read_objects

PIECE_BYTES = 16 * 2**20
MAX_ENTRY_BYTES = 64 * 2**20
MAX_TEXT_ARRAY_BYTES = 8 * 2**30  # NumPy gives every text of an array the length of the longest
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same arrays give the same bytes
HEADER_ERRORS = (ValueError, SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError)
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)
TEXT_ERRORS = (ValueError, SystemError)  # invalid characters; NumPy passes on Python's own error


class Header(NamedTuple):
    """Shape and type of an array, checked against its size in bytes; `offset` is where its content begins."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


class NpzReader:
    """The arrays of one NPZ file; use as a context manager."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise LvmError(f"There is no NPZ file at {path}; check the path.")
        with self._readable():
            self._zip = zipfile.ZipFile(path)
        infos = self._zip.infolist()
        self._infos = {info.filename.removesuffix(".npy"): info for info in infos}
        if len(self._infos) != len(infos):
            self._zip.close()
            raise self.error("holds two arrays of one name")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    @property
    def content_id(self) -> str:
        """Names, sizes and checksums of the arrays: the same for equal content."""
        return ";".join(f"{name}:{info.file_size}:{info.CRC:08x}" for name, info in sorted(self._infos.items()))

    def error(self, what: str) -> LvmError:
        return LvmError(f"{self.path} {what}; export or copy it again.")

    def names_ending(self, end: str) -> list[str]:
        """Return the names of the arrays that end with `end`."""
        return [name for name in self._infos if name.endswith(end)]

    def require(self, names: Iterable[str]) -> None:
        missing = [name for name in names if name not in self._infos]
        if missing:
            raise self.error(f"lacks the arrays {', '.join(missing)} (it holds {', '.join(self._infos) or 'none'})")

    def header(self, name: str) -> Header:
        """Read the header of an array."""
        info = self._infos[name]
        with self._member(name) as member:
            shape, is_fortran, dtype = self._read_header(name, member)
            num_bytes = info.file_size - member.tell()
            header = Header(shape=shape, dtype=dtype, offset=member.tell())
        if dtype == np.dtype(object):
            return header
        if dtype.hasobject or dtype.names or dtype.subdtype:
            raise self.error(f"stores {name} as structures, which cannot be used")
        is_too_wide = math.prod(shape[1:]) * dtype.itemsize > MAX_ENTRY_BYTES
        if math.prod(shape) * dtype.itemsize != num_bytes or is_too_wide:
            raise self.error(f"claims shape {shape} of {dtype} for {name}, which holds {num_bytes} bytes")
        if is_fortran and len(shape) > 1:
            raise self.error(f"stores {name} column by column (Fortran order); save it with np.ascontiguousarray")
        return header

    def pieces(self, name: str, *, num_rows: int | None = None) -> Generator[NDArray[Any]]:
        """Yield an array of numbers or text along its first axis, `num_rows` at a time or as memory allows."""
        header = self.header(name)
        if header.dtype.hasobject or not header.shape:
            raise self.error(f"stores {name} as objects or as a single value, expected an array of numbers")
        row_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
        num_rows = num_rows or max(1, PIECE_BYTES // max(1, row_bytes))
        with self._member(name) as member:
            member.read(header.offset)
            for start in range(0, header.shape[0], num_rows):
                count = min(num_rows, header.shape[0] - start)
                content = self._read_exactly(member, count * row_bytes)
                yield np.frombuffer(content, dtype=header.dtype).reshape(count, *header.shape[1:])

    def entries(self, name: str, num_entries: int) -> list[Any]:
        """Read a small array, one entry per concept or sequence, as plain Python values.

        Objects are read without executing anything; an array of more than one axis gives one list per entry.

        Raises:
            LvmError: If the array has another number of entries, or holds anything but plain values.
        """
        header = self.header(name)
        if not header.shape or header.shape[0] != num_entries:
            raise self.error(f"has shape {header.shape} for {name}, where {num_entries} entries are expected")
        if header.dtype.hasobject:
            return self._objects(name, header)
        if header.dtype.kind not in "USbiuf":
            raise self.error(f"stores {name} as {header.dtype}, where text or numbers are expected")
        with self._text_errors(name), closing(self.pieces(name)) as pieces:
            return [entry for piece in pieces for entry in piece.tolist()]

    def single(self, name: str) -> Any:
        """Read a single value, such as the metadata."""
        header = self.header(name)
        if math.prod(header.shape) != 1:
            raise self.error(f"has shape {header.shape} for {name}, where a single value is expected")
        if header.dtype.hasobject:
            return self._objects(name, header)[0]
        with self._member(name) as member, self._text_errors(name):
            return np.lib.format.read_array(member, allow_pickle=False).item()

    @contextmanager
    def _text_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except TEXT_ERRORS as error:
            raise self.error(f"holds text with invalid characters in {name} ({error})") from None

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except ZIP_ERRORS as error:
            raise self.error(f"is damaged or not an NPZ file ({error or type(error).__name__})") from None

    def _objects(self, name: str, header: Header) -> list[Any]:
        size = self._infos[name].file_size
        if size > MAX_OBJECT_BYTES:
            raise self.error(f"holds {size} bytes of objects in {name}, more than the {MAX_OBJECT_BYTES} that are read")
        with self._member(name) as member:
            content = self._read_exactly(member, size)[header.offset :]
        try:
            return read_objects(content, num_entries=math.prod(header.shape))
        except RefusedObjectsError as error:
            raise LvmError(
                f"{self.path} is refused: its array {name} {error}; nothing of it was executed, export the file "
                "again with arrays of text and numbers."
            ) from None

    @contextmanager
    def _member(self, name: str) -> Iterator[IO[bytes]]:
        with self._readable(), self._zip.open(self._infos[name]) as member:
            yield member

    def _read_header(self, name: str, member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        try:
            shape, is_fortran, dtype = readers[np.lib.format.read_magic(member)](member)
        except (KeyError, *HEADER_ERRORS) as error:
            raise self.error(f"has no readable header for {name} ({type(error).__name__})") from None
        if any(length < 0 for length in shape):
            raise self.error(f"claims shape {shape} for {name}")
        return shape, is_fortran, dtype

    def _read_exactly(self, member: IO[bytes], num_bytes: int) -> bytes:
        content = member.read(num_bytes)
        if len(content) != num_bytes:
            raise EOFError("it ends too early")
        return content


class NpzWriter:
    """Writes arrays into one NPZ file, each in pieces; what it writes loads without pickle."""

    def __init__(self, path: Path):
        self._zip = zipfile.ZipFile(path, "w", allowZip64=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def write_pieces(
        self, name: str, pieces: Iterable[NDArray[Any]], *, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        """Write an array that comes in pieces along its first axis."""
        info = zipfile.ZipInfo(f"{name}.npy", date_time=ZIP_TIME)
        if dtype.kind == "U":  # mostly zeros; vectors would not shrink
            info.compress_type = zipfile.ZIP_DEFLATED
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with self._zip.open(info, "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for piece in pieces:
                member.write(np.ascontiguousarray(piece, dtype=dtype).data.cast("B") if piece.size else b"")

    def write_array(self, name: str, values: NDArray[Any]) -> None:
        self.write_pieces(name, [values], shape=values.shape, dtype=values.dtype)

    def write_texts(self, name: str, texts: Sequence[str]) -> None:
        """Write texts as an array of fixed-width Unicode."""
        width = max(1, max(map(len, texts), default=1))
        dtype = np.dtype(f"<U{width}")
        if len(texts) * dtype.itemsize > MAX_TEXT_ARRAY_BYTES:
            raise LvmError(
                f"The array {name} would take {len(texts) * dtype.itemsize / 2**30:.0f} GiB, since NumPy gives each "
                f"text the length of the longest ({width} characters); shorten that text before exporting."
            )
        count = max(1, PIECE_BYTES // dtype.itemsize)
        pieces = (np.array(texts[start : start + count], dtype=dtype) for start in range(0, len(texts), count))
        self.write_pieces(name, pieces, shape=(len(texts),), dtype=dtype)
