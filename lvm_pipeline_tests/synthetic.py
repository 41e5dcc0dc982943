"""Small concept and sequence tables with known properties, for tests."""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.concepts.content import ContentFingerprints
from lvm_pipeline.concepts.schema import ConceptsMetadata, concepts_schema
from lvm_pipeline.concepts.store import ConceptsWriter, article_ranges, explain_full_disk
from lvm_pipeline.files import staged_file
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.sequences.splits import suggest_seed

Process = Literal["random_walk", "rotation", "noise"]
NAMESPACE = uuid.UUID(int=7)


def article_vectors(
    num_concepts: int, vector_dim: int, *, kind: Process, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return unit vectors of one article, shape (n, D), drawn from a process with a known best predictor.

    `noise` cannot be predicted; `random_walk` is best predicted from recent concepts; `rotation`
    turns the first vector by one fixed rotation (the same in every article) and is perfectly predictable.
    """
    if kind == "noise":
        vectors = rng.standard_normal((num_concepts, vector_dim))
    elif kind == "random_walk":
        topic = rng.standard_normal(vector_dim)
        steps = rng.standard_normal((num_concepts, vector_dim))
        vectors = topic + 0.7 * np.cumsum(steps, axis=0) / np.sqrt(np.arange(1, num_concepts + 1))[:, None]
    else:
        angles = np.linspace(0.2, 1.2, vector_dim // 2)
        phases = rng.uniform(0, 2 * np.pi, vector_dim // 2)
        turned = phases + np.arange(num_concepts)[:, None] * angles
        vectors = np.concatenate([np.cos(turned), np.sin(turned)], axis=1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def synthetic_table(
    article_lengths: Sequence[int], *, vector_dim: int = 32, kind: Process = "random_walk", seed: int = 0
) -> pa.Table:
    """Return a valid concept table with the given article lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    vectors = [article_vectors(n, vector_dim, kind=kind, rng=rng) for n in article_lengths]
    article_ids = sorted(str(uuid.uuid5(NAMESPACE, f"article {i}")) for i in range(len(article_lengths)))
    for index, (article_id, length) in enumerate(zip(article_ids, article_lengths, strict=True)):
        rows += [(index, article_id, position) for position in range(length)]
    num = len(rows)
    columns = {
        "row": np.arange(num),
        "cpe_id": [str(uuid.uuid5(NAMESPACE, f"{article_id}#{position}")) for _, article_id, position in rows],
        "article_id": [article_id for _, article_id, _ in rows],
        "article_index": [index for index, _, _ in rows],
        "position": [position for _, _, position in rows],
        "concept_text": [
            f"Concept {position} of article {index} says {row}." for row, (index, _, position) in enumerate(rows)
        ],
        "domain": [row % 16 for row in range(num)],
        "task": [row % 32 for row in range(num)],
        "modifier": [row % 64 for row in range(num)],
    }
    schema = concepts_schema(vector_dim)
    for name in ("tmd_dense", "soft_negatives", "hard_negatives", "created_at"):
        columns[name] = pa.nulls(num, schema.field(name).type)
    flat = pa.array(np.concatenate(vectors).ravel() if vectors else np.empty(0, np.float32))
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type)
    return pa.table(columns, schema=schema)


def fingerprint_of(table: pa.Table) -> str:
    """Hash ids and vectors in order."""
    digest = hashlib.sha256("".join(table["cpe_id"].to_pylist()).encode())
    digest.update(table["vector"].combine_chunks().flatten().to_numpy().tobytes())
    return digest.hexdigest()


def content_fingerprints_of(table: pa.Table) -> dict[str, str]:
    content = ContentFingerprints()
    content.update(table)
    return content.hexdigests()


def write_table(table: pa.Table, path: Path, *, space_id: str = "synthetic") -> Path:
    """Write a concept table with honest metadata."""
    metadata = ConceptsMetadata(
        fingerprint=fingerprint_of(table),
        space_id=space_id,
        vector_dim=table.schema.field("vector").type.list_size,
        source="synthetic",
        dataset_source="synthetic",
        order_key="document_id, sequence_index",
        num_concepts=table.num_rows,
        num_articles=len(set(table["article_id"].to_pylist())),
        num_source_rows=table.num_rows,
        duplicates_policy="fail",
        content_fingerprints=content_fingerprints_of(table),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata.as_parquet_metadata()), path)
    return path


def write_concepts(path: Path, tables: Iterable[pa.Table], metadata: ConceptsMetadata) -> None:
    """Write a concept table piece by piece, as the extraction does."""
    with (
        explain_full_disk(path.parent),
        staged_file(path) as staged,
        ConceptsWriter(staged, vector_dim=metadata.vector_dim) as writer,
    ):
        for table in tables:
            writer.write(table)
        writer.finish(metadata)


def write_synthetic_concepts(
    path: Path,
    *,
    article_lengths: Sequence[int],
    vector_dim: int = 32,
    kind: Process = "random_walk",
    seed: int = 0,
) -> Path:
    """Write a valid concept table of synthetic articles."""
    return write_table(synthetic_table(article_lengths, vector_dim=vector_dim, kind=kind, seed=seed), path)


def write_synthetic_sequences(concepts_path: Path, path: Path, **options: Any) -> Path:
    """Build the sequences of a concept table; `options` are those of `SequenceOptions`.

    Unless a seed is given, it is the first that leaves no split empty.
    """
    if "split_seed" not in options:
        articles = article_ranges(concepts_path)
        seed = suggest_seed(
            articles.ids,
            np.arange(len(articles.ids)),
            articles.lengths > options.get("context_length", 5),
            train_fraction=options.get("train_fraction", 0.8),
            validation_fraction=options.get("validation_fraction", 0.1),
        )
        options["split_seed"] = seed or 0
    path.parent.mkdir(parents=True, exist_ok=True)
    build_sequences(concepts_path, path, options=SequenceOptions(**options))
    return path
