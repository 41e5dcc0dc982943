"""JSONL files of articles: each line has `title`, either `text` or `concepts`, and optionally `article_id`."""

import codecs
import json
from collections import Counter
from pathlib import Path
from typing import Any

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.articles import Article, concepts_of_text, make_article_id, make_cpe_id
from lvm_pipeline.source.records import BadRow, Concept, SourceRecords, text_problem

BYTE_ORDER_MARK = codecs.BOM_UTF8


def read_jsonl(path: Path, *, dataset_source: str) -> SourceRecords:
    """Read and check every line; empty lines are skipped. Raises LvmError if the file cannot be read."""
    concepts: list[Concept] = []
    bad_rows: list[BadRow] = []
    reader = _ArticleReader(dataset_source)
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if not line.strip():
                    continue
                try:
                    article = reader.article(line, number=number)
                except ValueError as error:
                    bad_rows.append(BadRow(kind="line", number=number, reason=str(error)))
                else:
                    concepts += _concepts(article, number=number, dataset_source=dataset_source)
    except OSError as error:
        raise LvmError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from None
    return SourceRecords(path=path, row_kind="line", concepts=concepts, bad_rows=bad_rows)


class _ArticleReader:
    """Parses lines into articles and assigns their ids."""

    def __init__(self, dataset_source: str):
        self._dataset_source = dataset_source
        self._titles: Counter[str] = Counter()
        self._lines: dict[str, int] = {}  # article id -> line

    def article(self, line: bytes, *, number: int) -> Article:
        record = _record(line)
        title = record["title"].strip()
        concepts = _texts(record)
        article_id = record.get("article_id")
        if article_id is None:
            article_id = make_article_id(self._dataset_source, title, occurrence=self._titles[title])
        elif problem := text_problem(str(article_id), name="article_id"):
            raise ValueError(problem)
        article_id = str(article_id)
        if article_id in self._lines:
            raise ValueError(f"article_id {article_id} is already that of line {self._lines[article_id]}")
        self._titles[title] += 1
        self._lines[article_id] = number
        return Article(article_id=article_id, title=title, concepts=tuple(concepts))


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but {type(record).__name__}; expected title, and text or concepts")
    if problem := text_problem(record.get("title"), name="title"):
        raise ValueError(problem)
    if ("text" in record) == ("concepts" in record):
        raise ValueError("both text and concepts" if "text" in record else "neither text nor concepts")
    return record


def _texts(record: dict[str, Any]) -> list[str]:
    """Return the concepts of a record, or cut its text into concepts."""
    if "text" in record:
        if problem := text_problem(record["text"], name="text"):
            raise ValueError(problem)
        return concepts_of_text(record["text"])
    concepts = record["concepts"]
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
