"""Export the two exchange files: ordered concepts and training sequences, loadable without pickle.

`wikipedia_<N>_ordered.npz`, with its metadata beside it as `..._metadata.json`, and
`training_sequences_ctx<T>.npz`. Beyond the arrays that both files are known by, the sequences carry
`article_ids`, `splits` and `metadata`, so that they can be read back without leaking.

Shapes: N = concepts, S = sequences, T = context length in concepts, D = vector width.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import full_disk_told, read_columns, read_vectors, stream_row_groups, vectors_of
from lvm_pipeline.files import staged_file, write_json
from lvm_pipeline.sequences.npz_arrays import PIECE_BYTES, NpzWriter
from lvm_pipeline.sequences.schema import Sequences, read_sequences

TMD_FORM = "domain.task.modifier, empty where there is none"


def export_npz(concepts_path: Path, sequences_path: Path, output_dir: Path) -> list[Path]:
    """Write both exchange files and the metadata into a folder; each appears whole or not at all.

    Returns:
        The paths of the ordered concepts, their metadata, and the sequences.

    Raises:
        LvmError: If a table cannot be read, the sequences belong to other concepts, or the disk is full.
    """
    sequences = read_sequences(sequences_path, concepts_fingerprint=read_concepts_metadata(concepts_path).fingerprint)
    output_dir.mkdir(parents=True, exist_ok=True)
    with full_disk_told(output_dir):
        concepts_npz, metadata_json = export_concepts_npz(concepts_path, output_dir)
        return [concepts_npz, metadata_json, export_sequences_npz(concepts_path, sequences, output_dir)]


def export_concepts_npz(concepts_path: Path, output_dir: Path) -> tuple[Path, Path]:
    """Write the ordered concepts and their metadata.

    Arrays: `cpe_ids`, `concept_texts`, `tmd_codes` and `batch_ids` (the article ids) as text (N,), `vectors`
    float32 (N, D), `seq_in_article` int32 (N,), `metadata` as one JSON text.
    """
    names = ["cpe_id", "article_id", "position", "concept_text", "domain", "task", "modifier"]
    columns = read_columns(concepts_path, names)
    concepts = read_concepts_metadata(concepts_path)
    codes = _tmd_codes(columns)
    metadata = _concepts_metadata(concepts, codes)
    stem = f"wikipedia_{concepts.num_concepts}_ordered"
    with staged_file(output_dir / f"{stem}.npz") as staged, NpzWriter(staged) as writer:
        writer.write_texts("cpe_ids", columns["cpe_id"].to_pylist())
        writer.write_texts("concept_texts", [text or "" for text in columns["concept_text"].to_pylist()])
        shape = (concepts.num_concepts, concepts.vector_dim)
        groups = stream_row_groups(concepts_path, ["vector"])
        vectors = (vectors_of(group, concepts.vector_dim) for group in groups)
        writer.write_pieces("vectors", vectors, shape=shape, dtype=np.dtype("<f4"))
        writer.write_texts("tmd_codes", codes)
        writer.write_texts("batch_ids", columns["article_id"].to_pylist())
        writer.write_numbers("seq_in_article", columns["position"].to_numpy().astype("<i4"))
        writer.write_single_text("metadata", json.dumps(metadata))
    write_json(output_dir / f"{stem}_metadata.json", metadata)
    return output_dir / f"{stem}.npz", output_dir / f"{stem}_metadata.json"


def export_sequences_npz(concepts_path: Path, sequences: Sequences, output_dir: Path) -> Path:
    """Write the sequences with their vectors, S times (T + 1) of them.

    Arrays: `context_sequences` float32 (S, T, D), `target_vectors` float32 (S, D), `target_texts` and
    `target_tmds` as text (S,), `sequence_positions` int64 (S,): the row of the target in the ordered
    concepts; further `article_ids` and `splits` as text (S,) and `metadata` as one JSON text.
    """
    columns = read_columns(concepts_path, ["concept_text", "domain", "task", "modifier"]).take(sequences.target_rows)
    concepts = read_concepts_metadata(concepts_path)
    vectors = read_vectors(concepts_path)
    num_sequences, context_length = len(sequences.first_rows), sequences.metadata.context_length
    context_shape = (num_sequences, context_length, concepts.vector_dim)
    path = output_dir / f"training_sequences_ctx{context_length}.npz"
    with staged_file(path) as staged, NpzWriter(staged) as writer:
        contexts = _gathered(vectors, sequences.first_rows[:, None] + np.arange(context_length))
        writer.write_pieces("context_sequences", contexts, shape=context_shape, dtype=np.dtype("<f4"))
        targets = _gathered(vectors, sequences.target_rows)
        writer.write_pieces("target_vectors", targets, shape=context_shape[::2], dtype=np.dtype("<f4"))
        writer.write_texts("target_texts", [text or "" for text in columns["concept_text"].to_pylist()])
        writer.write_texts("target_tmds", _tmd_codes(columns))
        writer.write_numbers("sequence_positions", sequences.target_rows.astype("<i8"))
        writer.write_texts("article_ids", sequences.article_ids.tolist())
        writer.write_texts("splits", sequences.splits.tolist())
        writer.write_single_text("metadata", json.dumps(_sequences_metadata(concepts, sequences)))
    return path


def _gathered(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Yield `vectors[rows]` in pieces that fit in memory."""
    row_bytes = vectors.shape[1] * vectors.itemsize * (rows.shape[1] if rows.ndim > 1 else 1)
    count = max(1, PIECE_BYTES // row_bytes)
    for start in range(0, len(rows), count):
        yield vectors[rows[start : start + count]]


def _tmd_codes(columns: Any) -> list[str]:
    codes = zip(*(columns[name].to_pylist() for name in ("domain", "task", "modifier")), strict=True)
    return ["" if None in code else ".".join(map(str, code)) for code in codes]


def _concepts_metadata(concepts: ConceptsMetadata, codes: list[str]) -> dict[str, Any]:
    return {
        "num_concepts": concepts.num_concepts,
        "num_articles": concepts.num_articles,
        "num_tmd_codes": len(Counter(code for code in codes if code)),
        "vector_dim": concepts.vector_dim,
        "space_id": concepts.space_id,
        "dataset_source": concepts.dataset_source,
        "source": concepts.source,
        "order_key": concepts.order_key,
        "order_warning": concepts.order_warning,
        "fingerprint": concepts.fingerprint,
        "tmd_codes": TMD_FORM,
        "batch_ids": "article ids",
        "seq_in_article": "position in the article, from 0",
    }


def _sequences_metadata(concepts: ConceptsMetadata, sequences: Sequences) -> dict[str, Any]:
    metadata = sequences.metadata.as_json()
    kept = (
        "fingerprint concepts_fingerprint context_length boundaries split_rule split_seed train_fraction "
        "validation_fraction num_sequences split_counts is_leaking leak_reason"
    )
    return {
        **{name: metadata[name] for name in kept.split()},
        "space_id": concepts.space_id,
        "dataset_source": concepts.dataset_source,
        "vector_dim": concepts.vector_dim,
        "target_tmds": TMD_FORM,
        "sequence_positions": "row of the target in the ordered concepts, from 0",
    }
