"""Articles as records of a file, a JSON object or a row: their ids, and their concepts."""

from collections import Counter
from itertools import count
from typing import Any

from lvm_pipeline.source.articles import Article, concepts_of_text, make_article_id, make_cpe_id
from lvm_pipeline.source.records import Concept, article_id_of, text_problem


class ArticleReader:
    """Checks the records of a file one after the other, and assigns ids to articles without one."""

    def __init__(self, dataset_source: str, *, row_kind: str):
        """`row_kind` is what a record is called in messages: line, row or article."""
        self._dataset_source, self._row_kind = dataset_source, row_kind
        self._titles: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}  # article id -> line, or element of an array

    def article(self, record: Any, *, number: int) -> Article:
        """Return the article of a record: `title`, either `text` or `concepts`, and optionally `article_id`.

        Raises:
            ValueError: If the record is no such article, or its id is that of an earlier one; the message says why.
        """
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

    def concepts(self, article: Article, *, number: int) -> list[Concept]:
        """Return the concepts of an article that was record `number`."""
        return [
            Concept(
                number=number,
                cpe_id=make_cpe_id(self._dataset_source, article.article_id, position),
                article_id=article.article_id,
                title=article.title,
                position=position,
                text=text,
            )
            for position, text in enumerate(article.concepts)
        ]


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
