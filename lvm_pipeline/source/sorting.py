"""What of a file is new to the table: known rows, changed ones, duplicates, and the places of the new ones."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.records import BadRow, Concept, text_digest


@dataclass(frozen=True, kw_only=True)
class KnownRow:
    """A row that is in the table; None where a column is NULL."""

    article_id: str | None
    position: int | None
    article_index: int | None
    text_digest: bytes
    vector_digest: bytes | None


@dataclass(frozen=True, kw_only=True)
class TableState:
    """All rows of one dataset source by cpe_id, and how many vectors of each space (None: unnamed) they have."""

    rows: dict[str, KnownRow] = field(default_factory=dict)
    space_counts: dict[str | None, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A concept that was left out because its text or vector is that of another, which was kept."""

    number: int
    cpe_id: str
    kept_cpe_id: str
    reason: str  # "same text" or "same vector"

    def __str__(self) -> str:
        """Return it as it is shown: `entry 17 of the file, <id>: same text as <id>`."""
        return f"entry {self.number} of the file, {self.cpe_id}: {self.reason} as {self.kept_cpe_id}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a new concept goes: its article's index in the dataset source and its position, duplicates not counted."""

    article_index: int
    position: int


class Sorter:
    """Sorts the concepts of one file, in file order, against a table and against each other."""

    def __init__(self, state: TableState, *, place: str):
        self.known: list[Concept] = []
        self.bad_rows: list[BadRow] = []
        self.duplicates: list[Duplicate] = []
        self._state = state
        self._place = place
        self._texts = {row.text_digest: cpe_id for cpe_id, row in state.rows.items()}
        self._vectors = {row.vector_digest: cpe_id for cpe_id, row in state.rows.items() if row.vector_digest}

    def with_new_texts(self, concepts: Iterable[Concept]) -> list[Concept]:
        """Keep the concepts that are neither in the table nor say what an earlier one says."""
        kept = []
        for concept in concepts:
            row = self._state.rows.get(concept.cpe_id)
            digest = text_digest(concept.text)
            if row is None and self._is_first(self._texts, digest, concept, "same text"):
                kept.append(concept)
            elif row is not None and self._is_same(row, concept, digest):
                self.known.append(concept)
        return kept

    def with_new_vectors(self, concepts: Sequence[Concept], digests: Iterable[bytes]) -> list[int]:
        """Return the indexes of the concepts whose vector no earlier one has."""
        pairs = enumerate(zip(concepts, digests, strict=True))
        return [i for i, (concept, digest) in pairs if self._is_first(self._vectors, digest, concept, "same vector")]

    def places(self, new: Sequence[Concept]) -> dict[str, Place]:
        """Give each new concept its place by cpe_id, positions renumbered over what was left out.

        Raises:
            LvmError: If an article lies in the table in another order than the file gives it.
        """
        articles: dict[str, list[Concept]] = defaultdict(list)
        is_new = {concept.cpe_id for concept in new}
        indexes = {row.article_id: row.article_index for row in self._state.rows.values()}
        next_index = max((index + 1 for index in indexes.values() if index is not None), default=len(indexes))
        for concept in sorted([*self.known, *new], key=lambda concept: concept.number):
            articles[concept.article_id].append(concept)
        places = {}
        for article_id, concepts in articles.items():
            article_index = indexes.get(article_id)
            if article_index is None:
                article_index, next_index = next_index, next_index + 1
            for position, concept in enumerate(sorted(concepts, key=lambda concept: concept.position)):
                if concept.cpe_id in is_new:
                    places[concept.cpe_id] = Place(article_index=article_index, position=position)
                elif any(other.cpe_id in is_new for other in concepts):
                    self._check_order(concept, position)
        return places

    def _is_first(self, seen: dict[bytes, str], digest: bytes, concept: Concept, reason: str) -> bool:
        kept_cpe_id = seen.setdefault(digest, concept.cpe_id)
        if kept_cpe_id == concept.cpe_id:
            return True
        duplicate = Duplicate(number=concept.number, cpe_id=concept.cpe_id, kept_cpe_id=kept_cpe_id, reason=reason)
        self.duplicates.append(duplicate)
        return False

    def _is_same(self, row: KnownRow, concept: Concept, digest: bytes) -> bool:
        """Say whether the table has the concept as it is in the file; one that it has otherwise is a bad row."""
        has_other_vector = (
            None not in (row.vector_digest, concept.vector_digest) and row.vector_digest != concept.vector_digest
        )
        if row.text_digest == digest and not has_other_vector:
            return True
        what = "vector" if row.text_digest == digest else "text"
        reason = (
            f"concept {concept.position} of article {concept.title!r} is in the table with another {what}; "
            "give the article another article_id (and its rows other cpe_ids), or delete the old one first"
        )
        self.bad_rows.append(BadRow(place=self._place, number=concept.number, reason=reason))
        return False

    def _check_order(self, concept: Concept, position: int) -> None:
        row = self._state.rows[concept.cpe_id]
        if row.article_id != concept.article_id or row.position != position:
            raise LvmError(
                f"Article {concept.title!r} ({concept.article_id}) is in the table in another order; "
                "delete its rows and load the file again."
            )
