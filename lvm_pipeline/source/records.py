"""The concepts of a file before they are loaded, and its bad rows; vectors stay in the file.

Shapes: N = concepts, D = vector width.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.values import NOT_UTF8, name_of
from lvm_pipeline.words import counted

MAX_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A line or row that cannot be loaded; numbers start at 1."""

    kind: str  # "line" or "row"
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.reason}"


def first_of(items: Sequence[object]) -> str:
    """Join the first `MAX_SHOWN` items and say how many more there are."""
    more = f"; and {len(items) - MAX_SHOWN:,} more" if len(items) > MAX_SHOWN else ""
    return "; ".join(map(str, items[:MAX_SHOWN])) + more


def grouped(bad_rows: Sequence[BadRow]) -> list[str]:
    """Say each reason once, with the numbers of its rows, in the order of the first rows."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for each in bad_rows:
        numbers.setdefault((each.kind, each.reason), []).append(each.number)
    return [f"{_numbered(kind, found)}: {reason}" for (kind, reason), found in numbers.items()]


def _numbered(kind: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{kind} {numbers[0]}"
    more = f" and {len(numbers) - MAX_SHOWN:,} more" if len(numbers) > MAX_SHOWN else ""
    return f"{kind}s {', '.join(map(str, numbers[:MAX_SHOWN]))}{more}"


class BadInputError(LvmError):
    """A file has bad lines or rows and was not loaded; `bad_rows` holds all of them."""

    def __init__(self, path: Path, bad_rows: Sequence[BadRow], *, skip: str = "load the rest with --skip-bad"):
        """`skip` says how the other rows can be used."""
        self.bad_rows = list(bad_rows)
        count = counted(len(bad_rows), f"bad {bad_rows[0].kind}")
        is_encoding = all(each.reason.startswith(NOT_UTF8) for each in bad_rows)
        correct = (
            "Write the file as UTF-8 (as with `iconv -f WINDOWS-1252 -t UTF-8`)" if is_encoding else "Correct the file"
        )
        reasons = first_of(grouped(bad_rows))
        super().__init__(f"{path.name} has {count} and was not loaded ({reasons}). {correct}, or {skip}.")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One concept of a file: `position` as in the file, `vector_digest` if the file has vectors."""

    number: int
    cpe_id: str
    article_id: str
    title: str
    position: int
    text: str
    vector_digest: bytes | None = None


class VectorReader(Protocol):
    """Reads the vectors of some concepts of a file."""

    def __call__(self, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], NDArray[np.float32]]]:
        """Yield batches of row numbers and their vectors, shape (n, D), for the ascending `numbers`."""
        ...


@dataclass(frozen=True, kw_only=True)
class SourceRecords:
    """The good concepts of a file, in file order, and its bad rows."""

    path: Path
    row_kind: str  # `line` or `row`
    concepts: list[Concept]
    bad_rows: list[BadRow] = field(default_factory=list)
    gaps: list[BadRow] = field(default_factory=list)  # rows before which positions of their article are missing
    read_vectors: VectorReader | None = None  # None if the file has no vectors
    vector_dim: int | None = None
    space_id: str | None = None  # the one that the file itself declares


def text_problem(text: object, *, name: str) -> str | None:
    """Return why a value cannot be stored in a Postgres text column, None if it can."""
    if isinstance(text, bytes):
        return f"{name} is not UTF-8"
    if not isinstance(text, str):
        return f"{name} is missing" if text is None else f"{name} is not a text but {type(text).__name__}"
    if not text.strip():
        return f"{name} is empty"
    if "\0" in text:
        return f"{name} contains a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{name} contains half of a surrogate pair"
    return None


def article_id_of(value: object) -> str:
    """Return the id of an article, given as text, a whole number or a UUID.

    Raises:
        ValueError: If it is something else, such as a dict or a boolean, or cannot be stored.
    """
    if isinstance(value, bytes):
        raise ValueError("article_id is not UTF-8")
    try:
        article_id = name_of(value)
    except ValueError as error:
        raise ValueError(f"article_id {error}") from None
    if problem := text_problem(article_id, name="article_id"):
        raise ValueError(problem)
    return article_id


def text_digest(text: str) -> bytes:
    """Hash a text, as `TableState` does for the texts in the table."""
    return hashlib.sha256(text.encode()).digest()


def vector_bytes(vectors: NDArray[np.float32]) -> NDArray[np.void]:
    """Return each vector of (N, D) in the binary format of pgvector: width, zero, then big-endian floats."""
    num_vectors, vector_dim = vectors.shape
    packed = np.zeros(num_vectors, [("vector_dim", ">i2"), ("unused", ">i2"), ("components", ">f4", (vector_dim,))])
    packed["vector_dim"] = vector_dim
    packed["components"] = vectors + np.float32(0)  # -0.0 becomes 0.0
    return packed


def vector_digests(vectors: NDArray[np.float32]) -> list[bytes]:
    """Hash each vector of (N, D)."""
    return [hashlib.sha256(packed.tobytes()).digest() for packed in vector_bytes(vectors)]
