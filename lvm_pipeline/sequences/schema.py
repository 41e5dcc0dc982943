"""The sequence table: row numbers of contexts and targets, never vectors.

The split of an article is that of its sequences. An article without sequences, or whose sequences give another
split, has a row of its own, without row numbers.

Shapes: S = sequences, T = context length in concepts.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import METADATA_KEY, explain_bad_metadata, explain_bad_parquet
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.split_hash import Split

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # version 1 has the splits of articles in its metadata
REBUILD = "build the sequences again"
SPLITS: tuple[Split, ...] = get_args(Split)

_COLUMNS = {
    "article_id": (pa.string(), "The article of context and target."),
    "first_row": (pa.int64(), "Row of the context's first concept in the concept table; null for an article alone."),
    "target_row": (pa.int64(), "Row of the concept to predict, right after the context; null for an article alone."),
    "split": (pa.string(), "train, validation or test; the same for a whole article."),
}
_NULLABLE = ("first_row", "target_row")
SEQUENCES_SCHEMA = pa.schema([pa.field(name, kind, name in _NULLABLE) for name, (kind, _) in _COLUMNS.items()])
FIRST_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, (kind, _) in _COLUMNS.items()])
COLUMN_MEANINGS = {name: meaning for name, (_, meaning) in _COLUMNS.items()}


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """Size of one split; articles too short for a window count as articles too."""

    num_articles: int
    num_concepts: int
    num_sequences: int


@dataclass(frozen=True, kw_only=True)
class SequencesMetadata:
    """Metadata of `sequences.parquet`, stored as JSON in the file."""

    fingerprint: str  # hash of the rows, their splits and the concepts they refer to
    concepts_fingerprint: str  # that of the concept table
    context_length: int
    boundaries: str
    split_rule: str  # `seeded_hash`, `validation_articles` or `last_20_percent`
    num_sequences: int
    split_counts: dict[str, SplitCounts]
    split_seed: int | None = None  # it and the fractions only with the seeded hash
    train_fraction: float | None = None
    validation_fraction: float | None = None
    # articles that share near-duplicate concepts; the seeded hash keeps each group in one split
    near_duplicate_groups: list[list[str]] = field(default_factory=list)
    is_leaking: bool = False  # whether scores say nothing about unseen articles
    leak_reason: str | None = None
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_parquet_metadata(self) -> dict[bytes, bytes]:
        return {METADATA_KEY: json.dumps(self.as_json()).encode()}


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """All sequences of a table, in reading order."""

    article_ids: NDArray[np.object_]  # article of each target, shape (S,)
    first_rows: NDArray[np.int64]  # row of the first context concept, shape (S,); the context is T rows from there
    target_rows: NDArray[np.int64]  # row of the target, shape (S,)
    splits: NDArray[np.str_]  # split of each sequence, shape (S,)
    article_splits: dict[str, str]  # split of every article, also of those too short for a sequence
    metadata: SequencesMetadata  # metadata of the file

    def of_split(self, split: str) -> NDArray[np.int64]:
        """Return the indices of the sequences of a split, ascending.

        Raises:
            LvmError: If there is no such split, or it has no sequences.
        """
        if split not in SPLITS:
            raise LvmError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
        indices = np.flatnonzero(self.splits == split)
        if not len(indices):
            raise LvmError(f"The {split} split holds no sequence; choose another split, or split the articles again.")
        return indices


def is_sequences_schema(schema: pa.Schema) -> bool:
    """Whether these are the columns of a sequence table, of this version or an earlier one."""
    return any(schema.equals(known, check_metadata=False) for known in (SEQUENCES_SCHEMA, FIRST_SCHEMA))


def read_sequences_metadata(path: Path) -> SequencesMetadata:
    """Read the metadata of a sequence table.

    Raises:
        LvmError: If the file is missing, not Parquet, was not written by this project, or has damaged metadata.
    """
    with explain_bad_metadata(path, remedy=REBUILD):
        values = _read_metadata(path)
        values.pop("article_splits", None)
        values["split_counts"] = {split: SplitCounts(**counts) for split, counts in values["split_counts"].items()}
        return SequencesMetadata(**values)


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise LvmError(f"There is no sequence table at {path}; make it with `lvm run` or the asset `sequences`.")
    with explain_bad_parquet(path, remedy=REBUILD):
        schema = pq.read_schema(path)
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None or not is_sequences_schema(schema):
        raise LvmError(f"{path} is not a sequence table of this project; build the sequences again.")
    values = json.loads(raw)
    if values.get("schema_version") not in READABLE_VERSIONS:
        raise LvmError(
            f"{path} has schema version {values.get('schema_version')}, expected {SCHEMA_VERSION}; build again."
        )
    return values


def read_sequences(path: Path, *, concepts_fingerprint: str | None = None) -> Sequences:
    """Read a sequence table; one that refers to other concepts than `concepts_fingerprint`, if given, is refused.

    Raises:
        LvmError: If the file cannot be read, or belongs to other concepts.
    """
    metadata = read_sequences_metadata(path)
    if concepts_fingerprint is not None and metadata.concepts_fingerprint != concepts_fingerprint:
        raise LvmError(
            f"{path} was built from concepts with fingerprint {metadata.concepts_fingerprint[:12]}, not from these "
            f"({concepts_fingerprint[:12]}); build the sequences again from these concepts."
        )
    with explain_bad_parquet(path, remedy=REBUILD), pq.ParquetFile(path) as file:  # `read_table` imports pandas
        table = file.read()
    splits = _article_splits(table)
    if metadata.schema_version == 1:
        with explain_bad_metadata(path, remedy=REBUILD):
            splits = dict(_read_metadata(path)["article_splits"])
    table = table.filter(table["first_row"].is_valid())
    return Sequences(
        article_splits=splits,
        article_ids=_shared_texts(table["article_id"]),
        # by way of DLPack, since `to_numpy` imports pandas
        first_rows=np.asarray(np.from_dlpack(table["first_row"].combine_chunks()), np.int64),
        target_rows=np.asarray(np.from_dlpack(table["target_row"].combine_chunks()), np.int64),
        splits=np.array(table["split"].to_pylist(), dtype=np.str_),
        metadata=metadata,
    )


def _shared_texts(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """Return a column of texts as objects, each different text once.

    In an array of fixed width, every row would need the memory of the longest text.
    """
    texts, rows = column.to_pylist(), {}
    return np.array([rows.setdefault(text, text) for text in texts], dtype=object)


def _article_splits(table: pa.Table) -> dict[str, str]:
    """Return the split of every article: that of its row without row numbers, if any, else that of its sequences."""
    of_sequences = table.filter(table["first_row"].is_valid())
    known = splits_of_sequences(of_sequences["article_id"].to_pylist(), of_sequences["split"].to_pylist())
    own = table.filter(table["first_row"].is_null())
    return {**known, **dict(zip(own["article_id"].to_pylist(), own["split"].to_pylist(), strict=True))}


def splits_of_sequences(article_ids: Iterable[str], splits: Iterable[str]) -> dict[str, str]:
    """Return the split of each article with sequences; train if its sequences are in several splits."""
    found: dict[str, str] = {}
    for article_id, split in zip(article_ids, splits, strict=True):
        if found.setdefault(article_id, split) != split:
            found[article_id] = "train"
    return found
