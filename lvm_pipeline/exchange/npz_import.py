"""Import NPZ files of ordered concepts and of training sequences.

Reads what `npz_export.py` writes, and the original form of these files, in which texts, ids and codes are arrays of
Python objects; those are read without executing anything (`npz_objects.py`).

Shapes: N = concepts, S = sequences, T = context length in concepts, D = vector width.
"""

import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata
from lvm_pipeline.exchange.concept_table import write_concept_table
from lvm_pipeline.exchange.npz_columns import (
    metadata_of,
    names_of,
    space_of,
    texts_of,
    tmds_of,
    vector_pieces,
    vectors_shape,
)
from lvm_pipeline.exchange.npz_file import PIECE_BYTES, NpzReader
from lvm_pipeline.exchange.npz_sequences import CONTEXTS, TARGETS, SequenceFile
from lvm_pipeline.findings import Finding
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences, write_sequences
from lvm_pipeline.sequences.invariants import check_sequences
from lvm_pipeline.sequences.rows import read_concept_rows
from lvm_pipeline.source.schema import Tmd

CONCEPT_ARRAYS = ("cpe_ids", "concept_texts", "vectors", "tmd_codes", "batch_ids", "seq_in_article")
UNKNOWN_ORDER = "The order is that of an NPZ file, which does not say how it was decided."
RUNS_NOT_ARTICLES = "Articles are runs of overlapping sequences of an NPZ file that names no articles."
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lvm-pipeline/npz")


def import_concepts_npz(path: Path, staged_path: Path, *, space_id: str | None = None) -> ConceptsMetadata:
    """Convert an NPZ file of ordered concepts into a concept table; articles are its `batch_ids`.

    The table is written at `staged_path`, whole or not at all; the caller checks and promotes it. `space_id` is used if
    the file does not name one; without either it is `undeclared-<D>`.

    Raises:
        LvmError: If the file is damaged, lacks an array, contradicts itself, holds a vector that is not finite, is out
            of order, or asks for anything to be executed.
    """
    with NpzReader(path) as reader:
        reader.require(CONCEPT_ARRAYS)
        num_concepts, vector_dim = vectors_shape(reader, "vectors", num_axes=2)
        article_ids = names_of(reader, "batch_ids", num_concepts)
        columns: dict[str, Any] = {
            "cpe_id": names_of(reader, "cpe_ids", num_concepts),
            "article_id": article_ids,
            "position": _positions(reader, article_ids),
            "concept_text": texts_of(reader, "concept_texts", num_concepts),
            "tmd": tmds_of(reader, "tmd_codes", num_concepts),
        }
        metadata = metadata_of(reader)

        def pieces() -> Generator[dict[str, Any]]:
            first = 0
            for vectors in vector_pieces(reader, "vectors"):
                rows = slice(first, first + len(vectors))
                yield {**{name: column[rows] for name, column in columns.items()}, "vector": vectors}
                first = rows.stop

        return write_concept_table(
            staged_path,
            pieces(),
            space_id=space_of(reader, metadata, space_id, vector_dim),
            vector_dim=vector_dim,
            source=f"npz:{path.name}",
            dataset_source=str(metadata.get("dataset_source") or "npz"),
            order_key=str(metadata.get("order_key") or "NPZ batch_ids, seq_in_article"),
            order_warning=metadata.get("order_warning") if "order_key" in metadata else UNKNOWN_ORDER,
        )


def _positions(reader: NpzReader, article_ids: Sequence[str]) -> NDArray[np.int64]:
    """Read positions, counted from 0 or from 1, and check that each article is one run numbered without a gap."""
    names = names_of(reader, "seq_in_article", len(article_ids))
    try:
        positions = np.array([int(name) for name in names], dtype=np.int64)
    except (ValueError, OverflowError):
        raise reader.error("holds positions in seq_in_article that are not whole numbers") from None
    positions -= min(1, max(0, int(positions.min())))
    expected, started = 0, set()
    for row, (article_id, position) in enumerate(zip(article_ids, positions.tolist(), strict=True)):
        expected = expected + 1 if row and article_id == article_ids[row - 1] else 0
        if expected == 0 and article_id in started:
            raise reader.error(f"is not in order: article {article_id} goes on in row {row} after another article")
        if position != expected:
            raise reader.error(
                f"is not in order: row {row} of article {article_id} has seq_in_article {names[row]}, not "
                f"the next of its article"
            )
        started.add(article_id)
    return positions


def import_sequences_npz(
    path: Path,
    concepts_staged: Path,
    sequences_staged: Path,
    *,
    space_id: str | None = None,
    sequence_options: SequenceOptions | None = None,
) -> list[Finding]:
    """Convert an NPZ file of sequences into a concept table and a sequence table, and check the latter.

    Concepts are restored exactly. If a context is the previous context followed by its target, bit by bit, both
    sequences share rows; otherwise a new run of T + 1 rows begins. Runs become articles. If the file names articles and
    splits (as exported files do), they are kept. If not, the last 20 % of the sequences are validation, a new run
    begins there, and everything made from the file is labelled as leaking (compatibility mode). The first T rows of a
    run have no text. `space_id` is used as in `import_concepts_npz`.

    Raises:
        LvmError: If the file is damaged, lacks an array, contradicts itself, holds a vector that is not finite, or asks
            for anything to be executed.
    """
    with NpzReader(path) as reader:
        file = SequenceFile(reader)
        starts = np.empty(file.num_sequences, dtype=np.int64)  # first context row of each sequence
        write_concept_table(
            concepts_staged,
            _runs(file, starts),
            space_id=space_of(reader, file.metadata, space_id, file.vector_dim),
            vector_dim=file.vector_dim,
            source=f"npz:{path.name}",
            dataset_source=str(file.metadata.get("dataset_source") or "npz"),
            order_key="overlap of NPZ sequences",
            order_warning=None if file.article_ids else RUNS_NOT_ARTICLES,
            is_from_sequences=True,
        )
    if file.splits is None:
        options = replace(sequence_options or SequenceOptions(), context_length=file.context_length)
        return build_sequences(concepts_staged, sequences_staged, options=options)
    rows = read_concept_rows(concepts_staged)
    split_of = dict(zip(rows.article_indices[starts].tolist(), file.splits.tolist(), strict=True))
    write_sequences(
        sequences_staged,
        rows,
        starts=starts,
        splits=file.splits,
        article_splits=[split_of[index] for index in range(len(rows.article_ids))],
        provenance=_provenance(file),
    )
    return check_sequences(concepts_staged, sequences_staged, rows=rows)


def _runs(file: SequenceFile, starts: NDArray[np.int64]) -> Generator[dict[str, Any]]:
    """Yield the concepts run by run; fills `starts` (S,)."""
    length = file.context_length
    run_ids: list[str] = []
    content_id, run_start, first_row, first = file.reader.content_id, 0, 0, 0
    for contexts, targets, is_new in _pieces(file):
        counts = np.where(is_new, length + 1, 1)  # rows that each sequence adds
        target_rows = np.cumsum(counts) - 1
        vectors = np.empty((int(counts.sum()), file.vector_dim), dtype=np.float32)
        vectors[target_rows] = targets
        vectors[target_rows[is_new, None] + np.arange(-length, 0)] = contexts[is_new]
        texts: list[str | None] = [None] * len(vectors)
        tmds: list[Tmd | None] = [None] * len(vectors)
        for sequence, row in enumerate(target_rows.tolist(), start=first):
            if file.context_texts is not None and is_new[sequence - first]:
                texts[row - length : row] = file.context_texts[sequence]
            texts[row], tmds[row] = file.texts[sequence], file.tmds[sequence]
        piece_starts = first_row + target_rows - length
        starts[first : first + len(targets)] = piece_starts
        run_starts = np.maximum.accumulate(np.where(is_new, piece_starts, run_start))
        runs = np.repeat(len(run_ids) - 1 + np.cumsum(is_new), counts)
        run_ids += _run_ids(file, first + np.flatnonzero(is_new), known=run_ids)
        rows = first_row + np.arange(len(vectors))
        yield {
            "cpe_id": [str(uuid.uuid5(NAMESPACE, f"{content_id}#{row}")) for row in rows.tolist()],
            "article_id": [run_ids[run] for run in runs.tolist()],
            "position": rows - np.repeat(run_starts, counts),
            "concept_text": texts,
            "tmd": tmds,
            "vector": vectors,
        }
        run_start, first_row, first = int(run_starts[-1]), first_row + len(vectors), first + len(targets)


def _pieces(file: SequenceFile) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield contexts (n, T, D), targets (n, D), and whether each sequence begins a run (n,)."""
    num_rows = max(1, PIECE_BYTES // (file.context_length * file.vector_dim * 4))
    breaks = np.arange(file.num_sequences) == 0
    for column in (file.splits, file.article_ids):
        if column is not None:
            values = np.asarray(column)
            breaks[1:] |= values[1:] != values[:-1]
    first, last_context, last_target = 0, None, None
    for contexts, targets in zip(
        file.pieces(CONTEXTS, num_rows=num_rows),
        file.pieces(TARGETS, num_rows=num_rows),
        strict=True,
    ):
        earlier_contexts = np.concatenate([contexts[:1] if last_context is None else last_context, contexts[:-1]])
        earlier_targets = np.concatenate([targets[:1] if last_target is None else last_target, targets[:-1]])
        is_new = breaks[first : first + len(contexts)]
        is_new |= (contexts[:, :-1] != earlier_contexts[:, 1:]).any(axis=(1, 2))
        is_new |= (contexts[:, -1] != earlier_targets).any(axis=1)
        yield contexts, targets, is_new
        last_context, last_target = contexts[-1:], targets[-1:]
        first += len(contexts)


def _run_ids(file: SequenceFile, sequences: NDArray[np.int64], *, known: list[str]) -> list[str]:
    if file.article_ids is None:
        return [str(uuid.uuid5(NAMESPACE, f"{file.reader.content_id}/{sequence}")) for sequence in sequences.tolist()]
    run_ids = [file.article_ids[sequence] for sequence in sequences.tolist()]
    seen = set(known)
    for run_id in run_ids:
        if run_id in seen:
            raise file.reader.error(
                f"holds sequences of article {run_id} in two splits, or with a gap or other articles between them"
            )
        seen.add(run_id)
    return run_ids


def _provenance(file: SequenceFile) -> dict[str, Any]:
    """Return how the sequences were split; a file without articles leaks, whatever its metadata claim."""
    metadata, length = file.metadata, {"context_length": file.context_length}
    if file.article_ids is None:
        rule = metadata.get("split_rule") or ("named_in_file" if file.names_splits else "last_20_percent")
        leak = {"is_leaking": True, "leak_reason": file.leak_reason}
        return {**length, "boundaries": "unknown", "split_rule": str(rule), **leak}
    options = {
        name: metadata[name]
        for name in ("split_seed", "train_fraction", "validation_fraction")
        if type(metadata.get(name)) in {int, float}
    }
    rule = metadata.get("split_rule") or "named_in_file"
    return {**length, "boundaries": "respect", "split_rule": str(rule), **options}
