"""Compare the concepts of a file with the rows in the table: known rows, changed rows, duplicates and new concepts."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.records import BadRow, Concept, text_digest
from lvm_pipeline.words import counted

SAME_TEXT = "same text"
SAME_VECTOR = "same vector"  # and another text


@dataclass(frozen=True, kw_only=True)
class KnownRow:
    """A row of the table; None for a NULL column."""

    article_id: str | None
    position: int | None
    article_index: int | None
    text_digest: bytes
    vector_digest: bytes | None


@dataclass(frozen=True, kw_only=True)
class TableState:
    """All rows of one dataset source by cpe_id, and its number of vectors by space id (None: no space id).

    `article_indices` are those of articles whose rows are left out here, since they are about to be replaced.
    """

    rows: dict[str, KnownRow] = field(default_factory=dict)
    space_counts: dict[str | None, int] = field(default_factory=dict)
    article_indices: dict[str | None, int | None] = field(default_factory=dict)

    def without(self, article_ids: Container[str | None]) -> "TableState":
        """Return the state without the rows of some articles, which keep their place among the others."""
        left_out = {row.article_id: row.article_index for row in self.rows.values() if row.article_id in article_ids}
        rows = {cpe_id: row for cpe_id, row in self.rows.items() if row.article_id not in article_ids}
        return replace(self, rows=rows, article_indices=left_out)


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A concept that was skipped because an earlier one, which was kept, has the same text or vector."""

    number: int
    cpe_id: str
    kept_cpe_id: str
    reason: str  # `SAME_TEXT` or `SAME_VECTOR`

    def __str__(self) -> str:
        return f"entry {self.number} of the file, {self.cpe_id}: {self.reason} as {self.kept_cpe_id}"


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a new concept is inserted: index of its article in the dataset source, and position without duplicates."""

    article_index: int
    position: int


class Deduplicator:
    """Compares the concepts of one file, in file order, with a table and with each other."""

    def __init__(self, state: TableState, *, row_kind: str):
        self.known: list[Concept] = []
        self.bad_rows: list[BadRow] = []
        self.duplicates: list[Duplicate] = []
        self._state = state
        self._row_kind = row_kind
        self._texts = {row.text_digest: cpe_id for cpe_id, row in state.rows.items()}
        self._vectors = {row.vector_digest: cpe_id for cpe_id, row in state.rows.items() if row.vector_digest}

    def new_texts(self, concepts: Iterable[Concept]) -> list[Concept]:
        """Return the concepts that are not in the table and do not repeat the text or the vector of a kept one.

        Vectors are compared if the file has them; else call `new_vectors` afterwards.
        """
        kept = []
        for concept in concepts:
            row = self._state.rows.get(concept.cpe_id)
            digest = text_digest(concept.text)
            if row is None and self._is_first(concept, text=digest, vector=concept.vector_digest):
                kept.append(concept)
            elif row is not None and self._is_unchanged(row, concept, digest):
                self.known.append(concept)
        return kept

    def new_vectors(self, concepts: Sequence[Concept], digests: Iterable[bytes]) -> list[int]:
        """Return the indices of the concepts whose vector no earlier one has."""
        pairs = enumerate(zip(concepts, digests, strict=True))
        kept = [index for index, (concept, digest) in pairs if self._is_first(concept, vector=digest)]
        dropped = {each.cpe_id: each.kept_cpe_id for each in self.duplicates if each.reason == SAME_VECTOR}
        self.duplicates = [
            replace(each, kept_cpe_id=dropped[each.kept_cpe_id], reason=SAME_VECTOR)
            if each.kept_cpe_id in dropped
            else each
            for each in self.duplicates
        ]
        return kept

    def locations(self, new: Sequence[Concept]) -> dict[str, Location]:
        """Return the location of each new concept by cpe_id.

        Raises:
            LvmError: If an article with new concepts is in the table in another order, or with concepts that the file
                lacks or changes.
        """
        articles: dict[str, list[Concept]] = defaultdict(list)
        is_new = {concept.cpe_id for concept in new}
        indices = {row.article_id: row.article_index for row in self._state.rows.values()}
        indices |= self._state.article_indices
        next_index = max((index + 1 for index in indices.values() if index is not None), default=len(indices))
        for concept in sorted([*self.known, *new], key=lambda concept: concept.number):
            articles[concept.article_id].append(concept)
        self._require_whole(articles, is_new)
        locations = {}
        for article_id, concepts in articles.items():
            article_index = indices.get(article_id)
            if article_index is None:
                article_index, next_index = next_index, next_index + 1
            has_new = any(concept.cpe_id in is_new for concept in concepts)
            for position, concept in enumerate(sorted(concepts, key=lambda concept: concept.position)):
                if concept.cpe_id in is_new:
                    locations[concept.cpe_id] = Location(article_index=article_index, position=position)
                elif has_new:
                    self._check_order(concept, position)
        return locations

    def _is_first(self, concept: Concept, *, text: bytes | None = None, vector: bytes | None = None) -> bool:
        """Return whether no kept concept has the text or the vector with these digests; if so, this one is kept."""
        digests = ((self._texts, text, SAME_TEXT), (self._vectors, vector, SAME_VECTOR))
        for seen, digest, reason in digests:
            kept_cpe_id = seen.get(digest, concept.cpe_id) if digest else concept.cpe_id
            if kept_cpe_id != concept.cpe_id:
                self.duplicates.append(
                    Duplicate(number=concept.number, cpe_id=concept.cpe_id, kept_cpe_id=kept_cpe_id, reason=reason)
                )
                return False
        for seen, digest, _ in digests:
            if digest:
                seen[digest] = concept.cpe_id
        return True

    def _is_unchanged(self, row: KnownRow, concept: Concept, digest: bytes) -> bool:
        """Return whether the table has the concept as the file does; a changed one is a bad row."""
        if not has_changed(row, concept):
            return True
        is_same_text = row.text_digest == digest
        reason = (
            f"concept {concept.position} of article {concept.title!r} is in the table with another "
            f"{'vector' if is_same_text else 'text'}; replace the article with --replace, or give it another "
            "article_id (and its rows other cpe_ids)"
        )
        self.bad_rows.append(BadRow(kind=self._row_kind, number=concept.number, reason=reason))
        return False

    def _require_whole(self, articles: Mapping[str, Sequence[Concept]], is_new: Set[str]) -> None:
        """Refuse new concepts of an article of which the table has others, since these may have the same positions."""
        in_table: dict[str | None, set[str]] = defaultdict(set)
        for cpe_id, row in self._state.rows.items():
            in_table[row.article_id].add(cpe_id)
        for article_id, concepts in articles.items():
            in_file = {concept.cpe_id for concept in concepts}
            others = in_table[article_id] - in_file
            if others and not in_file.isdisjoint(is_new):
                raise LvmError(
                    f"The table has {counted(len(others), 'concept')} of article {concepts[0].title!r} ({article_id}) "
                    "that this file lacks or changes; add them to the file, replace the article with --replace, or "
                    "give it another article_id (and its rows other cpe_ids)."
                )

    def _check_order(self, concept: Concept, position: int) -> None:
        row = self._state.rows[concept.cpe_id]
        if row.article_id != concept.article_id or row.position != position:
            raise LvmError(
                f"The table has article {concept.title!r} ({concept.article_id}) in another order; "
                "replace the article with --replace."
            )


def has_changed(row: KnownRow, concept: Concept) -> bool:
    """Return whether a concept has another text than its row, or another vector, if both have one."""
    digests = {row.vector_digest, concept.vector_digest} - {None}
    return row.text_digest != text_digest(concept.text) or len(digests) > 1
