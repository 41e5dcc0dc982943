"""Training, scoring and exchange on given files, beside the products of `LVM_HOME`."""

import hashlib
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline import files, lineage
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import explain_full_disk
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.decoders import text_request
from lvm_pipeline.lineage.invariants import with_set_severities
from lvm_pipeline.lineage.spaces import refuse_other_numbers
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.evaluation.report import EvaluationReport
    from lvm_pipeline.sequences.schema import Split
    from lvm_pipeline.training.loop import TrainedModel
    from lvm_pipeline.training.progress import OnProgress


def train_on(
    settings: Settings,
    data: Path,
    *,
    output: Path | None = None,
    progress: "OnProgress | None" = None,
    again: bool = False,
) -> "TrainedModel":
    """Train one model on a file, tracked in MLflow, and keep it in a folder.

    Args:
        data: See `exchange.tables_from_file`.
        output: Folder of the model. Default: in `LVM_HOME/models`, named after the architecture and the file.
        again: Start from the beginning even if a checkpoint cannot be resumed.

    Raises:
        LvmError: If data or options cannot be used, with what to do, or another process trains the same folder.
        InvariantError: If the trained model breaks a blocking invariant; an earlier one stays.
    """
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
    from lvm_pipeline.lineage.models import accepted_at, training_config_of
    from lvm_pipeline.lineage.trials import write_tracking
    from lvm_pipeline.training.data import load_training_data
    from lvm_pipeline.training.loop import train

    config, tracker = training_config_of(settings), MlflowTracker(settings)
    if config.launcher in ("torchrun", "ray"):
        raise LvmError(
            f"With --data, a model is trained in one process; leave out launcher={config.launcher}, or load the data "
            "with `lvm ingest` first."
        )
    output = (output or settings.models_dir / f"{config.architecture}-{data.stem}").absolute()
    refuse_other_output(output)
    problem = f"Another process is training {output} now; wait for it, or choose another --output."
    with files.only_one(settings.home / "cache" / f"{_hash_of(output)}.lock", problem):
        tables = tables_of(settings, data)
        trained = train(
            config,
            load_training_data(*tables, encoders_dir=settings.encoders_dir, decoders_dir=settings.decoders_dir),
            output_dir=output.with_name(f".{output.name}.staged"),
            checkpoint_dir=output.with_name(f".{output.name}.checkpoint"),
            compile_cache_dir=settings.compile_cache_dir,
            tracker=tracker,
            progress=progress,
            again=again,
            accept=accepted_at(output, tables, tracker, settings=settings),
        )
        write_tracking(output, tracker, is_complete=trained.tracking_problem is None)
    return trained


def evaluate_on(
    settings: Settings, model_dir: Path, *, data: Path | None, split: "Split", output: Path | None
) -> "EvaluationReport":
    """Score a trained model on a file or the promoted products; write the report as JSON, with the HTML beside it.

    The validation report of a trial is written into its folder, where the leaderboard finds it. Texts are decoded for
    the promoted products only.

    Raises:
        LvmError: If model or data cannot be used, or do not belong together.
    """
    from lvm_pipeline.evaluation.evaluate import evaluate_model
    from lvm_pipeline.evaluation.report_page import report_html
    from lvm_pipeline.training.trained_model import read_trained_model_info

    if output is not None and output.suffix == ".html":
        raise LvmError(f"{output} would hold the page; name the JSON file, and the page is written beside it.")
    if output is not None and output.is_dir():
        raise LvmError(f"{output} is a folder; name the JSON file, such as {output / 'results.json'}.")
    read_trained_model_info(model_dir)  # refuses a wrong folder before any data are read
    is_trial = model_dir.resolve().parent.parent == settings.trials_dir.resolve()
    if is_trial and data is None and output is None and split == "validation":
        return lineage.evaluate_trial(settings, trial_folder(settings, model_dir.resolve().parent.name))
    concepts_path, sequences_path, vectors_dir = tables_of(settings, data)
    report = evaluate_model(
        model_dir,
        concepts_path,
        sequences_path,
        vectors_dir=vectors_dir,
        device=settings.device,
        split=split,
        cache_dir=settings.baselines_dir if data is None else None,
        num_threads=settings.num_threads,
        encoders_dir=settings.encoders_dir,
        text=text_request(settings) if data is None else None,
        data_findings=lineage.reported_findings(settings) if data is None else None,
    )
    report = replace(report, findings=tuple(with_set_severities(settings, report.findings)))
    report_dir = model_dir.resolve().parent if is_trial else model_dir
    json_path = (output or report_dir / f"report-{split}.json").absolute()
    files.write_json(json_path, report.as_json())
    files.write_text(json_path.with_suffix(".html"), report_html(report))
    return report


def refuse_other_output(output: Path) -> None:
    """Refuse a folder for a trained model that holds anything else, which would be deleted. Raises LvmError."""
    is_empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not is_empty and not (output / "trained_model.json").is_file():
        raise LvmError(f"{output} is not the folder of a trained model and would be replaced; choose another --output.")


def copy_model(model_dir: Path, output: Path) -> Path:
    """Copy a trained model to a folder, in place of an earlier one; return the folder.

    Raises:
        LvmError: If the folder holds anything but a trained model.
    """
    refuse_other_output(output)
    output = output.absolute()
    with files.staged_dir(output) as staged:
        shutil.copytree(model_dir, staged, dirs_exist_ok=True)
    return output


def tables_of(settings: Settings, data: Path | None) -> tuple[Path, Path, Path]:
    """Return concept table, sequence table and vectors folder of a file, or of the promoted products."""
    from lvm_pipeline.exchange.data_file import tables_from_file

    if data is None:
        return settings.promoted_tables
    work_dir = _files_dir(settings) / f"{data.stem}-{_hash_of(data)}"
    concepts_path, sequences_path = tables_from_file(
        data, work_dir=work_dir, sequence_options=lineage.sequence_options(settings), space_id=settings.space_id
    )
    refuse_other_numbers(settings, concepts_path)
    return concepts_path, sequences_path, settings.vectors_dir


def _files_dir(settings: Settings) -> Path:
    return settings.data_dir / "files"


def _hash_of(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]


def _movable(settings: Settings, table: Path) -> Path:
    """Return a table that can be moved to the products: itself, or a copy if it is the user's own file."""
    if table.is_relative_to(_files_dir(settings)):
        return table
    copy = settings.staging_dir / f"{uuid.uuid4().hex}-{table.name}"
    with explain_full_disk(copy.parent), files.staged_file(copy) as staged:
        shutil.copyfile(table, staged)
    return copy


def export_npz(settings: Settings, folder: Path) -> list[Path]:
    """Write the promoted concepts and sequences as the NPZ exchange files, which load without pickle."""
    from lvm_pipeline.exchange.npz_export import export_npz as export

    return export(settings.concepts_path, settings.sequences_path, folder)


def import_npz(settings: Settings, path: Path) -> lineage.Verification:
    """Make an NPZ exchange file the concepts and sequences of this home, if they pass every blocking invariant.

    Raises:
        LvmError: If the file cannot be used; it is never executed.
        InvariantError: If a blocking invariant failed; earlier products stay.
    """
    with lineage.data_locked(settings):
        concepts_path, sequences_path, _ = tables_of(settings, path)
        metadata = read_concepts_metadata(concepts_path)
        findings = lineage.check_staged_concepts(settings, concepts_path, metadata)
        sequences = lineage.StagedSequences(
            metadata=read_sequences_metadata(sequences_path),
            findings=lineage.checked_sequences(settings, concepts_path, sequences_path),
            path=_movable(settings, sequences_path),
        )
        concepts = lineage.StagedConcepts(path=_movable(settings, concepts_path), metadata=metadata, findings=findings)
        lineage.promote_with_sequences(settings, concepts, sequences)
    return lineage.verify_products(settings)
