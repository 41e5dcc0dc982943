"""Import the exchange files: ordered concepts, and training sequences.

Reads what `npz.py` writes and the form that the format began with, where texts, ids and codes are
arrays of Python objects; these are read without executing anything (`npz_objects.py`).

Shapes: N = concepts, S = sequences, T = context length in concepts, D = vector width.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import ConceptsMetadata
from lvm_pipeline.findings import Finding
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences, write_sequences
from lvm_pipeline.sequences.invariants import check_sequences
from lvm_pipeline.sequences.npz_arrays import PIECE_BYTES, NpzReader
from lvm_pipeline.sequences.npz_columns import (
    ImportedTable,
    imported_table,
    metadata_of,
    names_of,
    space_of,
    texts_of,
    tmds_of,
    vector_pieces,
    vectors_header,
)
from lvm_pipeline.sequences.rows import read_concept_rows
from lvm_pipeline.sequences.schema import SPLITS
from lvm_pipeline.sequences.splits import split_last_fifth
from lvm_pipeline.source.schema import Tmd

CONCEPT_ARRAYS = ("cpe_ids", "concept_texts", "vectors", "tmd_codes", "batch_ids", "seq_in_article")
SEQUENCE_ARRAYS = ("context_sequences", "target_vectors")
UNKNOWN_ORDER = "The order is that of an NPZ file, which does not say how it was decided."
RUNS_NOT_ARTICLES = "Articles are runs of overlapping sequences of an NPZ file that names no articles."
NO_ARTICLES = "the NPZ file names no articles: windows may cross them and validation may continue articles of train"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lvm-pipeline/npz")


def import_concepts_npz(path: Path, staged_path: Path, *, space_id: str | None = None) -> ConceptsMetadata:
    """Turn an NPZ file of ordered concepts into a concept table; articles are its `batch_ids`.

    Args:
        path: The NPZ file.
        staged_path: Where the concept table is written, whole or not at all; the caller checks and promotes it.
        space_id: Space of the vectors where the file names none; without either it is `undeclared-<D>`.

    Returns:
        What the table says of itself.

    Raises:
        LvmError: If the file is damaged, lacks an array, disagrees with itself, holds a vector that is not
            finite, is out of order, or asks for anything to be executed.
    """
    with NpzReader(path) as reader:
        reader.require(CONCEPT_ARRAYS)
        num_concepts, vector_dim = vectors_header(reader, "vectors", num_axes=2).shape
        article_ids = names_of(reader, "batch_ids", num_concepts)
        columns: dict[str, Any] = {
            "cpe_ids": names_of(reader, "cpe_ids", num_concepts),
            "article_ids": article_ids,
            "positions": _positions(reader, article_ids),
            "texts": texts_of(reader, "concept_texts", num_concepts),
            "tmds": tmds_of(reader, "tmd_codes", num_concepts),
        }
        declared = metadata_of(reader)
        space = space_of(reader, declared, space_id, vector_dim)
        with imported_table(staged_path, vector_dim=vector_dim) as table:
            for vectors in vector_pieces(reader, "vectors"):
                rows = slice(table.num_rows, table.num_rows + len(vectors))
                table.write(**{name: column[rows] for name, column in columns.items()}, vectors=vectors)
            return table.finish(
                space_id=space,
                source=f"npz:{path.name}",
                dataset_source=str(declared.get("dataset_source") or "npz"),
                order_key=str(declared.get("order_key") or "NPZ batch_ids, seq_in_article"),
                order_warning=declared.get("order_warning") if "order_key" in declared else UNKNOWN_ORDER,
            )


def _positions(reader: NpzReader, article_ids: Sequence[str]) -> NDArray[np.int64]:
    """Read positions, counted from 0 or from 1, and check that they number each article's one run."""
    names = names_of(reader, "seq_in_article", len(article_ids))
    try:
        positions = np.array([int(name) for name in names], dtype=np.int64)
    except (ValueError, OverflowError):
        raise reader.error("holds positions in seq_in_article that are no whole numbers") from None
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


@dataclass(frozen=True, kw_only=True)
class _SequenceFile:
    """The small columns of a sequence file; `article_ids` is None where they cannot be relied on."""

    num_sequences: int
    context_length: int
    vector_dim: int
    texts: Sequence[str | None]
    tmds: Sequence[Tmd | None]
    article_ids: list[str] | None
    splits: NDArray[np.str_] | None
    declared: dict[str, Any]
    content_id: str

    def breaks(self) -> NDArray[np.bool_]:
        """Mark the sequences (S,) that cannot go on from the one before: another article or another split."""
        breaks = np.zeros(self.num_sequences, dtype=bool)
        for column in (self.splits, self.article_ids):
            if column is not None:
                values = np.asarray(column)
                breaks[1:] |= values[1:] != values[:-1]
        return breaks


def import_sequences_npz(
    path: Path, concepts_staged: Path, sequences_staged: Path, *, space_id: str | None = None
) -> list[Finding]:
    """Turn an NPZ file of sequences into a concept table and a sequence table, for the same code as all others.

    Concepts are put back together exactly: where a context is the context before it moved on by its
    target, bit by bit, both sequences share their rows; anywhere else a new run of T + 1 rows begins. Runs
    stand for articles. A file that names articles and splits (as ours do) gives its articles back. One that
    does not is the compatibility mode: the last 20 % of the sequences are validation, a new run begins
    there, and everything made from it is labelled as leaking. The first T rows of a run have no text.

    Args:
        path: The NPZ file, with at least `context_sequences` (S, T, D) and `target_vectors` (S, D).
        concepts_staged: Where the concept table is written.
        sequences_staged: Where the sequence table is written.
        space_id: Space of the vectors where the file names none; without either it is `undeclared-<D>`.

    Returns:
        The findings of every sequence invariant.

    Raises:
        LvmError: If the file is damaged, lacks an array, disagrees with itself, holds a vector that is not
            finite, or asks for anything to be executed.
    """
    with NpzReader(path) as reader:
        file = _read_sequence_file(reader)
        space = space_of(reader, file.declared, space_id, file.vector_dim)
        with imported_table(concepts_staged, vector_dim=file.vector_dim) as table:
            starts = _write_runs(reader, file, table)
            table.finish(
                space_id=space,
                source=f"npz:{path.name}",
                dataset_source=str(file.declared.get("dataset_source") or "npz"),
                order_key="overlap of NPZ sequences",
                order_warning=None if file.article_ids else RUNS_NOT_ARTICLES,
            )
    if file.splits is None:
        options = SequenceOptions(context_length=file.context_length)
        return build_sequences(concepts_staged, sequences_staged, options=options)
    rows = read_concept_rows(concepts_staged)
    split_of_row = dict(zip(rows.article_indices[starts].tolist(), file.splits.tolist(), strict=True))
    write_sequences(
        sequences_staged,
        rows,
        starts=starts,
        splits=file.splits,
        article_splits=[split_of_row[index] for index in range(len(rows.article_ids))],
        provenance=_provenance(file),
    )
    return check_sequences(concepts_staged, sequences_staged, rows=rows)


def _read_sequence_file(reader: NpzReader) -> _SequenceFile:
    reader.require(SEQUENCE_ARRAYS)
    num_sequences, context_length, vector_dim = vectors_header(reader, "context_sequences", num_axes=3).shape
    target_shape = vectors_header(reader, "target_vectors", num_axes=2).shape
    if target_shape != (num_sequences, vector_dim):
        raise reader.error(
            f"holds target_vectors of shape {target_shape} beside {num_sequences} contexts of vectors of {vector_dim}"
        )
    declared = metadata_of(reader)
    names_articles = "article_ids" in reader and declared.get("is_leaking") is not True
    splits = np.array(names_of(reader, "splits", num_sequences)) if "splits" in reader else None
    if splits is not None and (unknown := set(splits.tolist()) - set(SPLITS)):
        raise reader.error(f"holds unknown splits ({', '.join(sorted(unknown)[:3])})")
    if splits is None and not names_articles:
        splits = split_last_fifth(num_sequences)
    empty = [None] * num_sequences
    return _SequenceFile(
        num_sequences=num_sequences,
        context_length=context_length,
        vector_dim=vector_dim,
        texts=texts_of(reader, "target_texts", num_sequences) if "target_texts" in reader else empty,
        tmds=tmds_of(reader, "target_tmds", num_sequences) if "target_tmds" in reader else empty,
        article_ids=names_of(reader, "article_ids", num_sequences) if names_articles else None,
        splits=splits,
        declared=declared,
        content_id=reader.content_id,
    )


def _write_runs(reader: NpzReader, file: _SequenceFile, table: ImportedTable) -> NDArray[np.int64]:
    """Write the concepts run by run; return the first context row of each sequence, shape (S,)."""
    context_length = file.context_length
    run_ids: list[str] = []
    run_start = 0  # row at which the present run began
    starts = []
    for contexts, targets, is_new in _linked_pieces(reader, file):
        first = sum(map(len, starts))
        counts = np.where(is_new, context_length + 1, 1)
        target_rows = np.cumsum(counts) - 1
        vectors = np.empty((int(counts.sum()), file.vector_dim), dtype=np.float32)
        vectors[target_rows] = targets
        for offset in range(context_length):
            vectors[target_rows[is_new] - context_length + offset] = contexts[is_new, offset]
        texts: list[str | None] = [None] * len(vectors)
        tmds: list[Tmd | None] = [None] * len(vectors)
        for sequence, row in enumerate(target_rows.tolist(), start=first):
            texts[row], tmds[row] = file.texts[sequence], file.tmds[sequence]
        run_starts = np.where(is_new, target_rows - context_length + table.num_rows, -1)
        run_starts = np.maximum.accumulate(np.concatenate([[run_start], run_starts]))
        run_start = int(run_starts[-1])
        rows = np.arange(table.num_rows, table.num_rows + len(vectors))
        positions = rows - np.repeat(run_starts[1:], counts)
        runs = np.repeat(np.cumsum(is_new) + len(run_ids) - 1, counts)
        run_ids += _run_ids(reader, file, first + np.flatnonzero(is_new), known=run_ids)
        starts.append(target_rows + table.num_rows - context_length)
        article_ids = [run_ids[run] for run in runs.tolist()]
        cpe_ids = [str(uuid.uuid5(NAMESPACE, f"{file.content_id}#{row}")) for row in rows.tolist()]
        table.write(
            cpe_ids=cpe_ids, article_ids=article_ids, positions=positions, texts=texts, tmds=tmds, vectors=vectors
        )
    return np.concatenate(starts)


def _linked_pieces(
    reader: NpzReader, file: _SequenceFile
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield contexts (n, T, D), targets (n, D), and whether a sequence begins a run (n,)."""
    num_rows = max(1, PIECE_BYTES // (file.context_length * file.vector_dim * 4))
    breaks = file.breaks()
    before: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    first = 0
    for contexts, targets in zip(
        vector_pieces(reader, "context_sequences", num_rows=num_rows),
        vector_pieces(reader, "target_vectors", num_rows=num_rows),
        strict=True,
    ):
        is_new = breaks[first : first + len(contexts)]
        context_before, target_before = before or (contexts[:1], targets[:1])
        contexts_before = np.concatenate([context_before, contexts[:-1]])
        targets_before = np.concatenate([target_before, targets[:-1]])
        is_new |= (contexts[:, :-1] != contexts_before[:, 1:]).any(axis=(1, 2))
        is_new |= (contexts[:, -1] != targets_before).any(axis=1)
        is_new[0] |= before is None
        yield contexts, targets, is_new
        before = contexts[-1:], targets[-1:]
        first += len(contexts)


def _run_ids(reader: NpzReader, file: _SequenceFile, sequences: NDArray[np.int64], *, known: list[str]) -> list[str]:
    if file.article_ids is None:
        return [str(uuid.uuid5(NAMESPACE, f"{file.content_id}/{sequence}")) for sequence in sequences.tolist()]
    run_ids = [file.article_ids[sequence] for sequence in sequences.tolist()]
    seen = set(known)
    for run_id in run_ids:
        if run_id in seen:
            raise reader.error(f"holds sequences of article {run_id} that do not follow each other")
        seen.add(run_id)
    return run_ids


def _provenance(file: _SequenceFile) -> dict[str, Any]:
    """Say how the sequences were split; a file without articles leaks, whatever it says."""
    declared = file.declared
    if file.article_ids is None:
        return {
            "context_length": file.context_length,
            "boundaries": "unknown",
            "split_rule": str(declared.get("split_rule") or "last_20_percent"),
            "is_leaking": True,
            "leak_reason": str(declared.get("leak_reason") or NO_ARTICLES),
        }
    return {
        "context_length": file.context_length,
        "boundaries": "respect",
        "split_rule": str(declared.get("split_rule") or "named_in_file"),
        **{name: declared.get(name) for name in ("split_seed", "train_fraction", "validation_fraction")},
    }
