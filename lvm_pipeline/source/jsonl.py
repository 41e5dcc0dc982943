"""JSON files of articles: each has `title`, either `text` or `concepts`, and optionally `article_id`.

An article is a line (JSONL), or an element of one JSON array; JSON texts over several lines, one after the other, are
read as a whole.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.article_reader import ArticleReader
from lvm_pipeline.source.records import BadRow, Concept, SourceRecords
from lvm_pipeline.source.values import parse_json

BYTE_ORDER_MARK = codecs.BOM_UTF8
NOT_BLANK = re.compile(r"\S")


def read_jsonl(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check every article; empty lines are skipped.

    Raises:
        LvmError: If the file cannot be read, or is a JSON array with a syntax error.
    """
    concepts: list[Concept] = []
    bad_rows: list[BadRow] = []
    kind = "line"
    try:
        whole = _whole_text(path)
        kind = "line" if whole is None else "article"
        reader = ArticleReader(dataset_source, row_kind=kind)
        for number, parse in _lines(path) if whole is None else _elements(whole):
            try:
                article = reader.article(parse(), number=number)
            except ValueError as error:
                bad_rows.append(BadRow(kind=kind, number=number, reason=str(error)))
            else:
                concepts += reader.concepts(article, number=number)
    except OSError as error:
        raise LvmError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from None
    return SourceRecords(path=path, row_kind=kind, concepts=concepts, bad_rows=bad_rows)


def _whole_text(path: Path) -> Any:
    """Return what a file holds that is one JSON array, or JSON texts over several lines; else None."""
    with path.open("rb") as lines:
        first = next((line for line in lines if line.removeprefix(BYTE_ORDER_MARK).strip()), b"")
        has_more = any(line.strip() for line in lines)
    first = first.removeprefix(BYTE_ORDER_MARK).strip()
    if not first.startswith((b"{", b"[")) or (first.startswith(b"{") and (not has_more or _is_json(first))):
        return None
    content = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    try:
        return parse_json(content)
    except ValueError:
        texts = _texts_in_a_row(content)
        if texts is None and first.startswith(b"[") and not _is_json(first):
            _refuse_broken_array(path, content)
        return texts


def _refuse_broken_array(path: Path, content: bytes) -> None:
    """Name the first syntax error of a JSON array over several lines, whose lines are no articles."""
    try:
        json.loads(content.decode().rstrip())
    except json.JSONDecodeError as error:
        raise LvmError(
            f"{path.name} is not JSON ({error.msg} at line {error.lineno}, column {error.colno}); correct the file."
        ) from None
    except (ValueError, RecursionError):  # not UTF-8, nested too deeply, or a number of thousands of digits
        return


def _texts_in_a_row(content: bytes) -> list[Any] | None:
    """Return the values of JSON texts that follow each other, as `jq` prints them; None if one is no JSON."""
    values, decoder, end = [], json.JSONDecoder(), 0
    try:
        text = content.decode()
        while (start := NOT_BLANK.search(text, end)) is not None:
            value, end = decoder.raw_decode(text, start.start())
            values.append(value)
    except (ValueError, RecursionError):
        return None
    return values


def _is_json(text: bytes) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Yield the number of each line that is not empty, and how to parse it."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                yield number, partial(parse_json, text)


def _elements(whole: Any) -> Iterator[tuple[int, Callable[[], Any]]]:
    for number, element in enumerate(whole if isinstance(whole, list) else [whole], start=1):
        yield number, lambda element=element: element
