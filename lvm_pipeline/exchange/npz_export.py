"""Export ordered concepts and training sequences as NPZ files that load without pickle.

`wikipedia_<N>_ordered.npz`, with its metadata beside it as `..._metadata.json`, and `training_sequences_ctx<T>.npz`.
Beyond the arrays of the original format, the sequences have `article_ids`, `splits` and `metadata`, so that importing
them keeps articles in one split.

Shapes: N = concepts, S = sequences, T = context length in concepts, D = vector width.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.concepts.store import (
    explain_full_disk,
    read_columns,
    read_texts,
    read_vectors,
    stream_row_groups,
    vectors_of,
)
from lvm_pipeline.exchange.npz_file import PIECE_BYTES, NpzWriter
from lvm_pipeline.files import staged_file, write_json
from lvm_pipeline.sequences.schema import Sequences, read_sequences

TMD_FORM = "domain.task.modifier, empty if there is none"
CONCEPT_FIELDS = (
    "num_concepts num_articles vector_dim space_id dataset_source source order_key order_warning fingerprint"
)
SEQUENCE_FIELDS = (
    "fingerprint concepts_fingerprint context_length boundaries split_rule split_seed train_fraction "
    "validation_fraction num_sequences split_counts is_leaking leak_reason"
)


def export_npz(concepts_path: Path, sequences_path: Path, output_dir: Path) -> list[Path]:
    """Write both NPZ files and the metadata into a folder, each whole or not at all; return their paths.

    Raises:
        LvmError: If a table cannot be read, the sequences belong to other concepts, or the disk is full.
    """
    concepts = read_concepts_metadata(concepts_path)
    sequences = read_sequences(sequences_path, concepts_fingerprint=concepts.fingerprint)
    output_dir.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(output_dir):
        return [
            *_export_concepts(concepts_path, concepts, output_dir),
            _export_sequences(concepts_path, concepts, sequences, output_dir),
        ]


def _export_concepts(concepts_path: Path, concepts: ConceptsMetadata, output_dir: Path) -> tuple[Path, Path]:
    """Write the ordered concepts and their metadata.

    Arrays: `cpe_ids`, `concept_texts`, `tmd_codes` and `batch_ids` (the article ids) as text (N,), `vectors`
    float32 (N, D), `seq_in_article` int32 (N,), `metadata` as one JSON text.
    """
    names = ["cpe_id", "article_id", "position", "concept_text", "domain", "task", "modifier"]
    columns = read_columns(concepts_path, names)
    codes = _tmd_codes(columns)
    metadata = {
        **{name: getattr(concepts, name) for name in CONCEPT_FIELDS.split()},
        "num_tmd_codes": len(set(codes) - {""}),
        "tmd_codes": TMD_FORM,
        "batch_ids": "article ids",
        "seq_in_article": "position in the article, from 0",
    }
    path = output_dir / f"wikipedia_{concepts.num_concepts}_ordered.npz"
    with staged_file(path) as staged, NpzWriter(staged) as writer:
        writer.write_texts("cpe_ids", columns["cpe_id"].to_pylist())
        writer.write_texts("concept_texts", [text or "" for text in columns["concept_text"].to_pylist()])
        shape = (concepts.num_concepts, concepts.vector_dim)
        groups = stream_row_groups(concepts_path, ["vector"])
        vectors = (vectors_of(group, concepts.vector_dim) for group in groups)
        writer.write_pieces("vectors", vectors, shape=shape, dtype=np.dtype("<f4"))
        writer.write_texts("tmd_codes", codes)
        writer.write_texts("batch_ids", columns["article_id"].to_pylist())
        writer.write_array("seq_in_article", columns["position"].to_numpy().astype("<i4"))
        writer.write_array("metadata", np.array(json.dumps(metadata)))
    metadata_path = path.with_name(f"{path.stem}_metadata.json")
    write_json(metadata_path, metadata)
    return path, metadata_path


def _export_sequences(concepts_path: Path, concepts: ConceptsMetadata, sequences: Sequences, output_dir: Path) -> Path:
    """Write the sequences with their vectors, S times (T + 1) of them.

    Arrays: `context_sequences` float32 (S, T, D), `target_vectors` float32 (S, D), `target_texts` and
    `target_tmds` as text (S,), `sequence_positions` int64 (S,): the row of the target in the ordered
    concepts; also `article_ids` and `splits` as text (S,) and `metadata` as one JSON text.
    """
    codes = read_columns(concepts_path, ["domain", "task", "modifier"]).take(sequences.target_rows)
    vectors = read_vectors(concepts_path)
    context_length = sequences.metadata.context_length
    shape = (len(sequences.first_rows), context_length, concepts.vector_dim)
    described = sequences.metadata.as_json()
    metadata = {
        **{name: described[name] for name in SEQUENCE_FIELDS.split()},
        **{name: getattr(concepts, name) for name in ("space_id", "dataset_source", "vector_dim")},
        "target_tmds": TMD_FORM,
        "sequence_positions": "row of the target in the ordered concepts, from 0",
    }
    path = output_dir / f"training_sequences_ctx{context_length}.npz"
    with staged_file(path) as staged, NpzWriter(staged) as writer:
        contexts = _gather(vectors, sequences.first_rows[:, None] + np.arange(context_length))
        writer.write_pieces("context_sequences", contexts, shape=shape, dtype=np.dtype("<f4"))
        targets = _gather(vectors, sequences.target_rows)
        writer.write_pieces("target_vectors", targets, shape=shape[::2], dtype=np.dtype("<f4"))
        writer.write_texts("target_texts", read_texts(concepts_path, sequences.target_rows))
        writer.write_texts("target_tmds", _tmd_codes(codes))
        writer.write_array("sequence_positions", sequences.target_rows.astype("<i8"))
        writer.write_texts("article_ids", sequences.article_ids.tolist())
        writer.write_texts("splits", sequences.splits.tolist())
        writer.write_array("metadata", np.array(json.dumps(metadata)))
    return path


def _gather(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Yield `vectors[rows]` in pieces that fit in memory."""
    row_bytes = vectors.shape[1] * vectors.itemsize * (rows.shape[1] if rows.ndim > 1 else 1)
    count = max(1, PIECE_BYTES // row_bytes)
    for start in range(0, len(rows), count):
        yield vectors[rows[start : start + count]]


def _tmd_codes(columns: Any) -> list[str]:
    codes = zip(*(columns[name].to_pylist() for name in ("domain", "task", "modifier")), strict=True)
    return ["" if None in code else ".".join(map(str, code)) for code in codes]
