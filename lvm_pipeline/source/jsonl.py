"""JSON files of articles: each has `title`, either `text` or `concepts`, and optionally `article_id`.

An article is a line (JSONL), or an element of one JSON array; JSON texts over several lines, one after the other, are
read as a whole.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.articles import Article, concepts_of_text, make_article_id, make_cpe_id
from lvm_pipeline.source.records import BadRow, Concept, SourceRecords, article_id_of, text_problem
from lvm_pipeline.source.values import parse_json

BYTE_ORDER_MARK = codecs.BOM_UTF8
NOT_BLANK = re.compile(r"\S")


def read_jsonl(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check every article; empty lines are skipped.

    Raises:
        LvmError: If the file cannot be read.
    """
    concepts: list[Concept] = []
    bad_rows: list[BadRow] = []
    kind = "line"
    try:
        whole = _whole_text(path)
        kind = "line" if whole is None else "article"
        reader = _ArticleReader(dataset_source, row_kind=kind)
        for number, parse in _lines(path) if whole is None else _elements(whole):
            try:
                article = reader.article(parse(), number=number)
            except ValueError as error:
                bad_rows.append(BadRow(kind=kind, number=number, reason=str(error)))
            else:
                concepts += _concepts(article, number=number, dataset_source=dataset_source)
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
        return _texts_in_a_row(content)


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


class _ArticleReader:
    """Parses lines into articles and assigns their ids."""

    def __init__(self, dataset_source: str, *, row_kind: str):
        self._dataset_source, self._row_kind = dataset_source, row_kind
        self._titles: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}  # article id -> line, or element of an array

    def article(self, record: Any, *, number: int) -> Article:
        title = _title(record)
        occurrence = self._titles[title]
        self._titles[title] += 1  # also of a bad row, so that the ids of the others stay when it is corrected
        concepts = _texts(record)
        article_id = record.get("article_id")
        if article_id is None:  # the second "A" has the id of a first "A/1", which may have been read before
            numbered = (make_article_id(self._dataset_source, title, occurrence=each) for each in count(occurrence))
            article_id = next(each for each in numbered if each not in self._numbers)
        article_id = article_id_of(article_id)
        if article_id in self._numbers:
            earlier = f"{self._row_kind} {self._numbers[article_id]}"
            raise ValueError(f"article_id {article_id} is already that of {earlier}")
        self._numbers[article_id] = number
        return Article(article_id=article_id, title=title, concepts=tuple(concepts))


def _title(record: Any) -> str:
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but {type(record).__name__}; expected title, and text or concepts")
    if problem := text_problem(record.get("title"), name="title"):
        names = ", ".join(repr(key) for key in record)[:80]  # a key may hold line breaks
        keys = f" (the keys are {names})" if record.get("title") is None else ""
        raise ValueError(f"{problem}{keys}")
    return record["title"].strip()


def _texts(record: dict[str, Any]) -> list[str]:
    """Return the concepts of a record, or cut its text into concepts; null counts as absent."""
    text, concepts = record.get("text"), record.get("concepts")
    if (text is None) == (concepts is None):
        raise ValueError("neither text nor concepts" if text is None else "both text and concepts")
    if text is not None:
        if problem := text_problem(text, name="text"):
            raise ValueError(problem)
        return concepts_of_text(text)
    if not isinstance(concepts, list) or not concepts:
        raise ValueError("concepts is not a list of texts")
    for position, concept in enumerate(concepts):
        if problem := text_problem(concept, name=f"concept {position}"):
            raise ValueError(problem)
    return [concept.strip() for concept in concepts]


def _concepts(article: Article, *, number: int, dataset_source: str) -> list[Concept]:
    return [
        Concept(
            number=number,
            cpe_id=make_cpe_id(dataset_source, article.article_id, position),
            article_id=article.article_id,
            title=article.title,
            position=position,
            text=text,
        )
        for position, text in enumerate(article.concepts)
    ]
