"""Training from a data file and a handful of options, as `lvm train` offers it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.file_reader import ParquetReader
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.schema import METADATA_KEY, read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import raise_on_blocking
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline.sequences.npz_arrays import NpzReader
from lvm_pipeline.sequences.npz_import import import_concepts_npz, import_sequences_npz
from lvm_pipeline.sequences.schema import SEQUENCES_SCHEMA
from lvm_pipeline.training.config import training_config
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.loop import OnProgress, TrainedModel, train
from lvm_pipeline.training.tracking import Tracker

CONCEPTS_FILE, SEQUENCES_FILE = "concepts.parquet", "sequences.parquet"


def train_from_options(
    data_path: Path,
    *,
    output_dir: Path,
    work_dir: Path,
    hidden_dim: int | None = None,
    num_layers: int | None = None,
    sequence_options: SequenceOptions | None = None,
    space_id: str | None = None,
    tracker: Tracker | None = None,
    progress: OnProgress | None = None,
    resume: bool = True,
    **training: Any,
) -> TrainedModel:
    """Train on a data file.

    Args:
        data_path: See `data_from_file`.
        output_dir: Folder of the trained model.
        work_dir: Where tables made from the file are kept.
        hidden_dim: Replaces the preset's.
        num_layers: Replaces the preset's.
        sequence_options: How to cut and split a file that holds concepts only.
        space_id: Space of the vectors of a file that names none.
        tracker: What to report to.
        progress: Called every few steps.
        resume: Go on from a checkpoint of the very same training.
        **training: Fields of `TrainingConfig`; None keeps the default.

    Returns:
        The trained model.
    """
    values = {name: value for name, value in training.items() if value is not None}
    sizes = {"hidden_dim": hidden_dim, "num_layers": num_layers}
    model = {**values.pop("model", {}), **{name: value for name, value in sizes.items() if value is not None}}
    config = training_config({**values, "model": model})
    data = data_from_file(data_path, work_dir=work_dir, sequence_options=sequence_options, space_id=space_id)
    return train(config, data, output_dir=output_dir, tracker=tracker, progress=progress, resume=resume)


def data_from_file(
    data_path: Path,
    *,
    work_dir: Path,
    sequence_options: SequenceOptions | None = None,
    space_id: str | None = None,
) -> TrainingData:
    """Open any file that sequences can be had from.

    Args:
        data_path: A sequence table beside its `concepts.parquet`; a concept table; or an NPZ file of sequences
            or of ordered concepts.
        work_dir: Where tables made from the file are kept.
        sequence_options: How to cut and split a file that holds concepts only.
        space_id: Space of the vectors of a file that names none.

    Returns:
        The data.
    """
    concepts_path, sequences_path = tables_from_file(
        data_path, work_dir=work_dir, sequence_options=sequence_options, space_id=space_id
    )
    return load_training_data(concepts_path, sequences_path, work_dir / "vectors")


def tables_from_file(
    data_path: Path,
    *,
    work_dir: Path,
    sequence_options: SequenceOptions | None = None,
    space_id: str | None = None,
) -> tuple[Path, Path]:
    """Return the paths of the concept table and the sequence table of a data file, made in `work_dir` if need be.

    Raises:
        LvmError: If the file is missing, of no kind that sequences can be had from, or of another space than named.
        InvariantError: If what was made from it breaks a blocking invariant.
    """
    if not data_path.is_file():
        raise LvmError(f"There is no file at {data_path}; check the path.")
    work_dir.mkdir(parents=True, exist_ok=True)
    made_concepts, made_sequences = work_dir / CONCEPTS_FILE, work_dir / SEQUENCES_FILE
    concepts_path = data_path
    if data_path.suffix == ".npz":
        concepts_path = made_concepts
        if _holds_sequences(data_path):
            raise_on_blocking(import_sequences_npz(data_path, made_concepts, made_sequences, space_id=space_id))
            return made_concepts, made_sequences
        import_concepts_npz(data_path, made_concepts, space_id=space_id)
    elif _is_sequence_table(data_path):
        beside = data_path.with_name(CONCEPTS_FILE)
        if not beside.is_file():
            raise LvmError(f"{data_path} holds row numbers only; put its {CONCEPTS_FILE} beside it.")
        _refuse_another_space(beside, space_id)
        return beside, data_path
    elif METADATA_KEY not in (pq.read_schema(data_path).metadata or {}):
        concepts_path = made_concepts
        _extract(data_path, made_concepts, space_id=space_id)
    _refuse_another_space(concepts_path, space_id)
    raise_on_blocking(build_sequences(concepts_path, made_sequences, options=sequence_options or SequenceOptions()))
    return concepts_path, made_sequences


def _refuse_another_space(concepts_path: Path, space_id: str | None) -> None:
    found = read_concepts_metadata(concepts_path).space_id
    if space_id is not None and space_id != found:
        raise LvmError(f"{concepts_path} holds vectors of the space {found}, not {space_id}; correct LVM_SPACE_ID.")


def _extract(data_path: Path, concepts_path: Path, *, space_id: str | None) -> None:
    """Make a concept table from a Parquet file of other origin, by the way that the source table takes."""
    options = ExtractOptions(duplicates="drop", space_id=space_id)
    raise_on_blocking(extract_concepts(ParquetReader(data_path), options=options, staged_path=concepts_path).findings)
    raise_on_blocking(check_concepts(concepts_path))


def _holds_sequences(path: Path) -> bool:
    with NpzReader(path) as reader:
        return "context_sequences" in reader


def _is_sequence_table(path: Path) -> bool:
    try:
        return pq.read_schema(path).equals(SEQUENCES_SCHEMA, check_metadata=False)
    except (pa.ArrowException, OSError) as error:
        raise LvmError(f"{path} is neither Parquet nor NPZ ({str(error).splitlines()[0]}); check the file.") from None
