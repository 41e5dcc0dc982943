"""The concept table: one row per concept, sorted by article, then position.

Shapes: N = concepts in the table, D = vector width.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.parquet_file import parquet_errors

SCHEMA_VERSION = 1
METADATA_KEY = b"lvm"

_COLUMNS: dict[str, tuple[pa.DataType | None, str]] = {
    "row": (pa.int64(), "Row number, from 0. The sequence table refers to it."),
    "cpe_id": (pa.string(), "Id of the concept in the source table."),
    "article_id": (pa.string(), "Id of its article."),
    "article_index": (pa.int32(), "Number of the article, from 0, in the order of this table."),
    "position": (pa.int32(), "Position in the article, from 0."),
    "concept_text": (pa.string(), "Text of the concept."),
    "domain": (pa.int16(), "TMD code, 0 to 15."),
    "task": (pa.int16(), "TMD code, 0 to 31."),
    "modifier": (pa.int16(), "TMD code, 0 to 63."),
    # Not of fixed size: pyarrow cannot read a fixed-size list with a null in it from Parquet.
    "tmd_dense": (pa.list_(pa.float32()), "TMD codes as a 16-D vector, if the source has them."),
    "soft_negatives": (pa.list_(pa.string()), "Soft negatives, if the source has any."),
    "hard_negatives": (pa.list_(pa.string()), "Hard negatives, if the source has any."),
    "created_at": (pa.timestamp("us", tz="UTC"), "When the row in the source table was created."),
    "vector": (None, "Vector of the concept, float32."),  # a list of D
}
# After them in tables from a source that can tell whether an article has changed.
DIGEST_COLUMN = "article_digest"
DIGEST_FIELD = pa.field(DIGEST_COLUMN, pa.int64())
_NULLABLE = {*_COLUMNS} - {"row", "cpe_id", "article_id", "article_index", "position"}
COLUMN_MEANINGS = {
    **{name: meaning for name, (_, meaning) in _COLUMNS.items()},
    DIGEST_COLUMN: "Changes when a row of the article changes in the source. Null: read the article again.",
}


def concepts_schema(vector_dim: int) -> pa.Schema:
    """Return the columns of `concepts.parquet` for vectors of width D."""
    vector = pa.list_(pa.field("item", pa.float32()), vector_dim)
    return pa.schema([pa.field(name, kind or vector, name in _NULLABLE) for name, (kind, _) in _COLUMNS.items()])


@dataclass(frozen=True, kw_only=True)
class ConceptsMetadata:
    """Metadata of `concepts.parquet`, stored in it as JSON."""

    fingerprint: str  # order-sensitive hash of ids, articles and vectors
    space_id: str
    vector_dim: int
    source: str
    dataset_source: str
    order_key: str  # rule that decided the order
    num_concepts: int
    num_articles: int
    num_source_rows: int
    duplicates_policy: str
    dropped: list[dict[str, str]] = field(default_factory=list)  # removed duplicates: `{cpe_id, kept_cpe_id, reason}`
    order_warning: str | None = None  # set if the order is unknown and was accepted
    # order-sensitive hash of each kind of `content_kinds.CONTENT`, which `fingerprint` leaves out, so that models that
    # read none of it stay current when it changes; empty in tables of earlier versions
    content_fingerprints: dict[str, str] = field(default_factory=dict)
    is_from_sequences: bool = False  # restored from a file of sequences: texts may be missing, concepts may repeat
    schema_version: int = SCHEMA_VERSION

    def content(self, kinds: Collection[str]) -> str | None:
        """Return one fingerprint of some kinds of content; None for no kind, and for tables of earlier versions."""
        if not kinds or not self.content_fingerprints:
            return None
        digests = [f"{kind} {self.content_fingerprints[kind]}" for kind in sorted(kinds)]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_parquet_metadata(self) -> dict[bytes, bytes]:
        return {METADATA_KEY: json.dumps(self.as_json()).encode()}


def read_concepts_metadata(path: Path) -> ConceptsMetadata:
    """Read the metadata of a concept table.

    Raises:
        LvmError: If the file is missing, not Parquet, or was not written by this project.
    """
    if not path.is_file():
        raise LvmError(f"There is no concept table at {path}; make it with `lvm run` or the asset `concepts`.")
    raw = read_file_metadata(path).get(METADATA_KEY)
    if raw is None:
        raise LvmError(f"{path} was not written by this project; load it with `lvm ingest` first.")
    with explain_bad_metadata(path, remedy="extract the concepts again"):
        values = json.loads(raw)
        version = values.get("schema_version")
        if version == SCHEMA_VERSION:
            return ConceptsMetadata(**values)
    raise LvmError(f"{path} has schema version {version}, expected {SCHEMA_VERSION}; extract the concepts again.")


def read_file_metadata(path: Path) -> dict[bytes, bytes]:
    with explain_bad_parquet(path):
        return pq.read_metadata(path).metadata or {}


@contextmanager
def explain_bad_metadata(path: Path, *, remedy: str) -> Iterator[None]:
    """Convert the errors of damaged JSON in the metadata of a file to `LvmError`."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError):
        raise LvmError(f"{path} has invalid metadata; {remedy}.") from None


def explain_bad_parquet(
    path: Path, *, remedy: str = "restore it or extract the concepts again"
) -> AbstractContextManager[None]:
    """Convert the errors of reading a missing or damaged table of this project to `LvmError`."""
    return parquet_errors(path, remedy=remedy)
