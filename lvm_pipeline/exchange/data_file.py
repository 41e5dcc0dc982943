"""Turn any data file into a concept table and a sequence table."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq

from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.facts import require_columns
from lvm_pipeline.concepts.file_reader import ParquetReader
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.schema import METADATA_KEY, explain_bad_parquet, read_concepts_metadata
from lvm_pipeline.errors import LvmError, first_line
from lvm_pipeline.exchange.npz_file import NpzReader
from lvm_pipeline.exchange.npz_import import import_concepts_npz, import_sequences_npz
from lvm_pipeline.exchange.npz_sequences import holds_sequences
from lvm_pipeline.findings import raise_on_blocking
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.sequences.invariants import check_sequences
from lvm_pipeline.sequences.schema import is_sequences_schema
from lvm_pipeline.source.given_file import FileKind, kind_of, plain_file
from lvm_pipeline.source.parquet_file import PARQUET_ERRORS

CONCEPTS_FILE, SEQUENCES_FILE = "concepts.parquet", "sequences.parquet"


def tables_from_file(
    data_path: Path, *, work_dir: Path, sequence_options: SequenceOptions | None = None, space_id: str | None = None
) -> tuple[Path, Path]:
    """Return the paths of the concept table and the sequence table of a data file, built in `work_dir` if needed.

    Args:
        data_path: A sequence table beside its `concepts.parquet`, a concept table, another Parquet file of concepts
            with vectors, or an NPZ file of sequences or of ordered concepts.
        work_dir: Where tables built from the file are kept.
        sequence_options: How to cut and split a file that holds concepts only.
        space_id: Space of the vectors if the file does not name one.

    Raises:
        LvmError: If the file is missing, of no such kind, or of another space than `space_id`.
        InvariantError: If a table breaks a blocking invariant, whether it was given or built from the file.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    copies = work_dir / "given"
    with ExitStack() as on_failure:
        on_failure.callback(shutil.rmtree, copies, ignore_errors=True)
        with plain_file(data_path, folder=copies) as plain:
            tables = _tables_from(
                plain,
                is_copy=plain != data_path,
                work_dir=work_dir,
                sequence_options=sequence_options,
                space_id=space_id,
            )
        on_failure.pop_all()
    return tables


def _tables_from(
    data_path: Path, *, is_copy: bool, work_dir: Path, sequence_options: SequenceOptions | None, space_id: str | None
) -> tuple[Path, Path]:
    built_concepts, built_sequences = work_dir / CONCEPTS_FILE, work_dir / SEQUENCES_FILE
    concepts_path = data_path
    kind = kind_of(data_path)
    if kind is FileKind.NPZ or data_path.suffix == ".npz":
        concepts_path = built_concepts
        with NpzReader(data_path) as reader:
            is_of_sequences = holds_sequences(reader)
        if is_of_sequences:
            findings = import_sequences_npz(
                data_path, built_concepts, built_sequences, space_id=space_id, sequence_options=sequence_options
            )
            raise_on_blocking(findings)
            return built_concepts, built_sequences
        import_concepts_npz(data_path, built_concepts, space_id=space_id)
    elif kind is FileKind.LINES:
        raise LvmError(f"{data_path} is neither Parquet nor NPZ; load articles of text with `lvm ingest` first.")
    elif _is_sequence_table(data_path):
        beside = data_path.with_name(CONCEPTS_FILE)
        if not beside.is_file():
            save = f"save it as a plain Parquet file beside its {CONCEPTS_FILE}"
            remedy = save if is_copy else f"put its {CONCEPTS_FILE} beside it"
            raise LvmError(f"{data_path.name if is_copy else data_path} holds row numbers only; {remedy}.")
        _check_table(beside, space_id)
        raise_on_blocking(check_sequences(beside, data_path))
        return beside, data_path
    elif METADATA_KEY not in (pq.read_schema(data_path).metadata or {}):
        concepts_path = built_concepts
        _extract(data_path, built_concepts, space_id=space_id)
    _check_table(concepts_path, space_id)
    raise_on_blocking(build_sequences(concepts_path, built_sequences, options=sequence_options or SequenceOptions()))
    return concepts_path, built_sequences


def _check_table(concepts_path: Path, space_id: str | None) -> None:
    """Check columns, space and invariants of a concept table, whoever wrote it."""
    metadata = read_concepts_metadata(concepts_path)
    if space_id is not None and space_id != metadata.space_id:
        raise LvmError(
            f"{concepts_path} holds vectors of the space {metadata.space_id}, not {space_id}; correct LVM_SPACE_ID."
        )
    with explain_bad_parquet(concepts_path):
        require_columns(concepts_path, pq.read_schema(concepts_path), metadata.vector_dim)
    raise_on_blocking(check_concepts(concepts_path))


def _extract(data_path: Path, concepts_path: Path, *, space_id: str | None) -> None:
    """Make a concept table from another Parquet file in the way it is made from the source table."""
    options = ExtractOptions(duplicates="drop", space_id=space_id)
    raise_on_blocking(extract_concepts(ParquetReader(data_path), options=options, staged_path=concepts_path).findings)


def _is_sequence_table(path: Path) -> bool:
    try:
        return is_sequences_schema(pq.read_schema(path))
    except PARQUET_ERRORS as error:
        raise LvmError(f"{path} is neither Parquet nor NPZ ({first_line(error)}); check the file.") from None
