"""Find the articles of a file that differ from those of the same id in the table, so that they can be replaced."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lvm_pipeline.source.deduplication import KnownRow, TableState, has_changed
from lvm_pipeline.source.records import Concept, text_digest


def changed_articles(concepts: Iterable[Concept], state: TableState) -> set[str]:
    """Return the ids of the articles that the table has with other concepts, or in another order.

    An article to which the file only adds concepts at its end has not changed.
    """
    rows: dict[str, dict[str, KnownRow]] = defaultdict(dict)
    for cpe_id, row in state.rows.items():
        if row.article_id is not None:
            rows[row.article_id][cpe_id] = row
    articles: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        if concept.article_id in rows:
            articles[concept.article_id].append(concept)
    in_table = {row.text_digest for row in state.rows.values()} | {row.vector_digest for row in state.rows.values()}
    return {
        article_id
        for article_id, given in articles.items()
        if _has_changed(sorted(given, key=lambda concept: concept.position), rows[article_id], in_table)
    }


def _has_changed(given: Sequence[Concept], rows: Mapping[str, KnownRow], in_table: set[bytes | None]) -> bool:
    known = [concept for concept in given if concept.cpe_id in rows]
    positions = [rows[concept.cpe_id].position or 0 for concept in known]
    if len(known) < len(rows) or positions != sorted(positions):
        return True
    if any(has_changed(rows[concept.cpe_id], concept) for concept in known):
        return True
    before_end = given[: given.index(known[-1])] if known else []
    return any(concept.cpe_id not in rows and not _is_repeated(concept, in_table) for concept in before_end)


def _is_repeated(concept: Concept, in_table: set[bytes | None]) -> bool:
    """Return whether the table has the text or the vector, so that an earlier load left the concept out."""
    digests = {text_digest(concept.text), concept.vector_digest} - {None}
    return not digests.isdisjoint(in_table)
