"""Read the concepts that a user gives to a trained model: lines of JSON or plain text, or a Parquet file.

A line that begins with `{` or `[` is JSON. It is an object with `vector` or else `text`, optionally `article_id` and
`space_id`, and `tmd_dense` for a model with a condition; or a bare list of numbers. Any other line is the text of one
concept.

Shapes: D = vector width.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.given_file import FileKind, kind_of, plain_file
from lvm_pipeline.source.parquet_file import GivenParquet, parquet_errors, vectors_of_width
from lvm_pipeline.source.records import article_id_of
from lvm_pipeline.source.values import parse_json, vector_of, whole_number
from lvm_pipeline.training.tmd_vectors import CONDITION_DIM

BATCH_ROWS = 1024
COLUMNS = ("article_id", "position", "concept_text", "vector", "tmd_dense")
VECTORS = ("vector", "tmd_dense")

ArticleId = str | int | None


@dataclass(frozen=True, kw_only=True)
class GivenConcept:
    """One concept: `vector` (D,) or else `text`; `location` is where it was read, such as `line 3`."""

    location: str
    article_id: ArticleId = None
    space_id: str | None = None
    text: str | None = None
    vector: NDArray[np.float32] | None = None
    tmd_dense: NDArray[np.float32] | None = None


def read_file(path: Path) -> Iterator[GivenConcept]:
    """Yield the concepts of a file of lines, or of a Parquet file with the column `vector` or else `concept_text`.

    Raises:
        LvmError: If the file cannot be read, or a concept of it cannot be used; those before it were yielded.
    """
    if _is_pipe(path):
        with path.open("rb") as lines:
            yield from read_lines(lines)
        return
    with plain_file(path) as plain:
        kind = kind_of(plain)
        if kind is FileKind.PARQUET:
            yield from read_parquet(plain)
        elif kind is FileKind.LINES:
            with plain.open("rb") as lines:
                yield from read_lines(lines)
        else:
            raise LvmError(f"{path.name} is a file of {kind}; give lines of JSON or text, or Parquet.")


def _is_pipe(path: Path) -> bool:
    """Whether lines come as they are written, and are read one by one."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode) or stat.S_ISCHR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def read_lines(lines: Iterable[bytes]) -> Iterator[GivenConcept]:
    """Yield the concept of each line as soon as the line is there; empty lines are skipped.

    Raises:
        LvmError: If a line is no concept.
    """
    for number, line in enumerate(lines, start=1):
        location = f"line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise LvmError(f"{location} is not UTF-8 (byte {error.start}); give JSON or text.") from None
        if text:
            yield _concept_of_line(text, location=location)


def _concept_of_line(line: str, *, location: str) -> GivenConcept:
    if line[0] not in "{[":
        return GivenConcept(location=location, text=line)
    record = _record(line, location=location)
    for name, kinds in (("text", str), ("space_id", str), ("article_id", str | int)):
        what = "a text" if kinds is str else "a text or a whole number"
        is_boolean = isinstance(record.get(name), bool)
        if record.get(name) is not None and (is_boolean or not isinstance(record[name], kinds)):
            raise LvmError(f"{location}: {name} must be {what}, got {str(record[name])[:60]}.")
        try:
            str(record.get(name)).encode()
        except UnicodeEncodeError:
            raise LvmError(f"{location}: {name} contains half of a surrogate pair; correct it.") from None
    text, vector = (record.get("text") or "").strip(), record.get("vector")
    if vector is None and not text:
        raise LvmError(f"{location} has neither a vector nor a text; give it one.")
    return GivenConcept(
        location=location,
        article_id=record.get("article_id"),
        space_id=record.get("space_id"),
        text=text if vector is None else None,
        vector=None if vector is None else _numbers(vector, "vector", location=location),
        tmd_dense=_tmd_of(record, location=location),
    )


def _record(line: str, *, location: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise LvmError(
            f"{location} starts like JSON but is {error}; write one record per line, and wrap a text that starts with "
            '{ or [ as {"text": ...}.'
        ) from None
    return {"vector": record} if isinstance(record, list) else record


def _tmd_of(record: dict[str, Any], *, location: str) -> NDArray[np.float32] | None:
    """Return the TMD vector of a record: None if it has no such field, zeros for null, as in training."""
    if "tmd_dense" not in record:
        return None
    values = record["tmd_dense"]
    return np.zeros(CONDITION_DIM, np.float32) if values is None else _numbers(values, "tmd_dense", location=location)


def _numbers(values: Any, name: str, *, location: str) -> NDArray[np.float32]:
    try:
        return vector_of(values)
    except ValueError as error:
        raise LvmError(f"{location}: {name} must be a list of numbers, and {error}.") from None


def read_parquet(path: Path) -> Iterator[GivenConcept]:
    """Yield the rows of a Parquet file in their order, which must be the reading order.

    Raises:
        LvmError: If it is damaged, has neither vectors nor texts, or its articles or positions are not in order.
    """
    with parquet_errors(path), GivenParquet(path) as file:
        names = _readable_columns(file)
        number, last = 0, dict[ArticleId, int]()
        for batch in file.batches(names, batch_size=BATCH_ROWS):
            columns = [_column(file, batch, name) if name in names else [None] * batch.num_rows for name in COLUMNS]
            for article_id, position, text, vector, tmd in zip(*columns, strict=True):
                number += 1
                article, at = _article_and_position(article_id, position, number=number)
                _note_position(last, article, at, path=path)
                given = {"article_id": article, "space_id": file.space_id, "text": text, "vector": vector}
                concept = _concept_of_row(number, **given, needs="vector" if "vector" in names else "text")
                if "tmd_dense" in names:
                    concept = replace(concept, tmd_dense=np.zeros(CONDITION_DIM, np.float32) if tmd is None else tmd)
                yield concept


def _readable_columns(file: GivenParquet) -> list[str]:
    """Return the columns to read, of types that can be read; texts are not read where there are vectors."""
    unread = "concept_text" if "vector" in file.schema.names else "vector"
    names = file.require([], [name for name in COLUMNS if name != unread])
    if not {"vector", "concept_text"} & set(names):
        raise LvmError(
            f"{file.path} has neither a column vector nor concept_text; rename one of its columns to "
            "vector or concept_text."
        )
    for name in names:
        if name in VECTORS:
            file.require_vectors(name)
        else:
            file.require_kind(name, "whole numbers" if name == "position" else "text")
    return names


def _column(file: GivenParquet, batch: pa.RecordBatch, name: str) -> list[Any]:
    if name not in VECTORS:
        return file.values(batch, name)
    vectors: list[Any] = [None] * batch.num_rows
    for rows, group in vectors_of_width(batch.column(name))[1].values():
        for row, vector in zip(rows.tolist(), group, strict=True):
            vectors[row] = vector
    return vectors


def _article_and_position(article_id: object, position: object, *, number: int) -> tuple[ArticleId, int | None]:
    try:
        named = article_id if article_id is None or type(article_id) is int else article_id_of(article_id)
        return named, None if position is None else whole_number(position)
    except ValueError as error:
        what = "" if str(error).startswith("article_id") else "position "
        raise LvmError(f"row {number}: {what}{error}; correct it.") from None


def _note_position(last: dict[ArticleId, int], article_id: ArticleId, position: int | None, *, path: Path) -> None:
    """Note the last position of an article. Raises LvmError if its rows are not together, or not in order."""
    if position is None:
        return
    problem = None
    if article_id in last and next(reversed(last)) != article_id:
        problem = f"article {article_id} goes on after another one"
    elif position <= last.get(article_id, position - 1):
        problem = f"position {position} of article {article_id} comes after {last[article_id]}"
    if problem is not None:
        raise LvmError(f"{path} is not in reading order: {problem}; sort it by article_id and position.")
    last[article_id] = position


def _concept_of_row(
    number: int,
    *,
    article_id: ArticleId,
    space_id: str | None,
    text: object,
    vector: NDArray[np.float32] | None,
    needs: str,
) -> GivenConcept:
    if isinstance(text, bytes):
        raise LvmError(f"row {number}: its text is not UTF-8; correct it.")
    if vector is None and not (isinstance(text, str) and text.strip()):
        raise LvmError(f"row {number} has no {needs}; give it one.")
    return GivenConcept(
        location=f"row {number}",
        article_id=article_id,
        space_id=space_id,
        text=text if isinstance(text, str) else None,
        vector=vector,
    )
