"""A file of sequences with its small columns: as exported, and in the forms of the original project.

The vectors are `context_sequences` and `target_vectors`, in a file with a split `train_...` or without a prefix, then
`val_...` and `test_...`. What belongs to each sequence is in arrays beside them, or in `metadata` as one dict each.

Shapes: S = sequences, T = context length in concepts, D = vector width.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.exchange.npz_columns import (
    metadata_of,
    names_of,
    records_of,
    text_rows_of,
    texts_of,
    tmds_of,
    vector_pieces,
    vectors_shape,
)
from lvm_pipeline.exchange.npz_file import NpzReader
from lvm_pipeline.sequences.schema import SPLITS
from lvm_pipeline.sequences.splits import split_last_fifth
from lvm_pipeline.source.values import name_of

CONTEXTS, TARGETS = "context_sequences", "target_vectors"
PREFIXES = {"": "train", "train_": "train", "val_": "validation", "validation_": "validation", "test_": "test"}
ARTICLE_KEYS = ("article_id", "article_index")  # of the dict of a sequence
NO_ARTICLES = "the NPZ file names no articles: windows may cross them and validation may continue articles of train"
SOME_ARTICLES = (
    "the metadata of {} of {} sequences name no article, so the others' articles are not used: windows may cross them "
    "and validation may continue articles of train"
)
CROSSING = "the NPZ file says that some of its windows cross articles"


class _Part(NamedTuple):
    prefix: str
    num_sequences: int


class SequenceFile:
    """The sequences of a file, split by split. `article_ids` is None if they are missing or unreliable.

    Attributes:
        reader: The open file.
        metadata: Of the whole file.
        num_sequences: S.
        context_length: T.
        vector_dim: D.
        texts: The S texts of the targets.
        tmds: TMD codes of each target.
        context_texts: The T texts of each context; None if the file has none.
        article_ids: Article of each sequence, or None.
        leak_reason: Why validation may share text with train; None where articles are known.
        splits: Split of each sequence, shape (S,); None where articles decide.
        names_splits: Whether the file says which sequences are of which split.
    """

    def __init__(self, reader: NpzReader):
        """Read everything but the vectors.

        Raises:
            LvmError: If an array is missing or contradicts another one.
        """
        self._parts, self.context_length, self.vector_dim = _parts_of(reader)
        self.reader, self.metadata = reader, metadata_of(reader, num_records=self._parts[0].num_sequences)
        self.num_sequences = sum(part.num_sequences for part in self._parts)
        self.texts = self._column("target_texts", texts_of) or [None] * self.num_sequences
        self.tmds = self._column("target_tmds", tmds_of) or [None] * self.num_sequences
        self.context_texts = self._context_texts()
        self.article_ids, self.leak_reason = self._articles()
        self.splits = self._splits()
        self.names_splits = len(self._parts) > 1 or "splits" in reader

    def pieces(self, what: str, *, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield `CONTEXTS` or `TARGETS`, at most `num_rows` at a time; no piece spans two splits."""
        return chain.from_iterable(
            vector_pieces(self.reader, f"{part.prefix}{what}", num_rows=num_rows) for part in self._parts
        )

    def _column(self, name: str, read: Callable[[NpzReader, str, int], list[Any]]) -> list[Any] | None:
        """Read a column of every part; None unless each has it."""
        names = [f"{part.prefix}{name}" for part in self._parts]
        if any(each not in self.reader for each in names):
            return None
        columns = (read(self.reader, each, part[1]) for each, part in zip(names, self._parts, strict=True))
        return list(chain.from_iterable(columns))

    def _context_texts(self) -> list[list[str | None]] | None:
        """Read the texts of the contexts; None if most texts repeat, so that they must be placeholders."""
        rows = self._column(
            "context_texts", lambda reader, name, num: text_rows_of(reader, name, num, self.context_length)
        )
        num_texts = len(set(chain.from_iterable(rows or [])))
        return rows if 2 * num_texts > self.num_sequences else None

    def _articles(self) -> tuple[list[str] | None, str | None]:
        if self.metadata.get("is_leaking") is True:
            return None, str(self.metadata.get("leak_reason") or NO_ARTICLES)
        records = self._column("metadata", records_of) or []
        if any(record.get("crosses_article") for record in records):
            return None, CROSSING
        article_ids = self._column("article_ids", names_of)
        for key in ARTICLE_KEYS:
            if article_ids is None and records and all(record.get(key) is not None for record in records):
                article_ids = [self._name(record[key], key, row) for row, record in enumerate(records)]
        if article_ids is not None:
            return article_ids, None
        num_nameless = min((sum(record.get(key) is None for record in records) for key in ARTICLE_KEYS), default=0)
        is_partly_named = num_nameless < len(records)
        return None, SOME_ARTICLES.format(num_nameless, len(records)) if is_partly_named else NO_ARTICLES

    def _name(self, value: object, key: str, row: int) -> str:
        try:
            return name_of(value)
        except ValueError as error:
            raise self.reader.error(f"has a dict in row {row} of metadata whose {key} {error}") from None

    def _splits(self) -> NDArray[np.str_] | None:
        named = self._column("splits", names_of)
        if named is not None:
            if unknown := set(named) - set(SPLITS):
                raise self.reader.error(f"holds unknown splits ({', '.join(sorted(unknown)[:3])})")
            return np.array(named)
        if len(self._parts) > 1:
            counts = [part.num_sequences for part in self._parts]
            return np.repeat([PREFIXES[part.prefix] for part in self._parts], counts)
        return None if self.article_ids is not None else split_last_fifth(self.num_sequences)


def holds_sequences(reader: NpzReader) -> bool:
    """Whether a file holds sequences (else, ordered concepts)."""
    return any(f"{prefix}{CONTEXTS}" in reader for prefix in PREFIXES)


def _parts_of(reader: NpzReader) -> tuple[list[_Part], int, int]:
    """Return the parts, T and D."""
    if strangers := [name for name in reader.names_ending(CONTEXTS) if name.removesuffix(CONTEXTS) not in PREFIXES]:
        known = ", ".join(filter(None, PREFIXES))
        raise reader.error(f"holds {', '.join(strangers)}, whose split is unknown (known prefixes: {known})")
    prefixes = [prefix for prefix in PREFIXES if f"{prefix}{CONTEXTS}" in reader] or [""]
    parts, widths = [], set()
    for prefix in prefixes:
        reader.require([f"{prefix}{CONTEXTS}", f"{prefix}{TARGETS}"])
        num, length, vector_dim = vectors_shape(reader, f"{prefix}{CONTEXTS}", num_axes=3)
        target_shape = vectors_shape(reader, f"{prefix}{TARGETS}", num_axes=2)
        if target_shape != (num, vector_dim):
            raise reader.error(
                f"holds {prefix}{TARGETS} of shape {target_shape} beside {num} contexts of vectors of {vector_dim}"
            )
        parts.append(_Part(prefix, num))
        widths.add((length, vector_dim))
    splits = [PREFIXES[prefix] for prefix in prefixes]
    if len(widths) > 1 or len(set(splits)) < len(splits):
        names = ", ".join(f"{prefix}{CONTEXTS}" for prefix in prefixes)
        raise reader.error(f"holds {names}, which do not match each other")
    ((length, vector_dim),) = widths
    return parts, length, vector_dim
