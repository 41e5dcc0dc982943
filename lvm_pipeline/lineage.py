"""The stages with their products: what asset bodies and `lvm run` both call.

Each function takes the settings, makes the library calls of one stage and returns a small record.
Products are staged, checked, and promoted only when no blocking finding failed, so a product that
exists has passed. Nothing here knows of Dagster; torch and MLflow are imported by the functions that
need them, so that a code server which only lists the assets stays small.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.adapters import databases, postgres_observer
from lvm_pipeline.adapters.postgres_observer import SourceState
from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.adapters.postgres_writer import PostgresWriter
from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.report import verification_report, write_verification_report
from lvm_pipeline.concepts.schema import ConceptsMetadata
from lvm_pipeline.findings import Finding, blocking_failures, raise_on_blocking
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences, sequences_summary
from lvm_pipeline.sequences.schema import SequencesMetadata, read_sequences_metadata
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.registry import encoder_of_space
from lvm_pipeline.source.load import IngestReport, ingest

if TYPE_CHECKING:
    from lvm_pipeline.training.checkpoint import TrainedModelInfo
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.loop import OnProgress
    from lvm_pipeline.training.tracking import Tracker

Progress = Callable[[int, int], None]  # done, total
TRACKING_FILE = "tracking.json"  # beside the weights: which MLflow run made them


# --- cpe_entry ---------------------------------------------------------------------------------


def source_reader(settings: Settings) -> PostgresReader:
    """Return the reader of the source tables, starting the embedded server where it holds them."""
    return PostgresReader(
        url=databases.source_url(settings),
        entry_table=settings.entry_table,
        vector_table=settings.vector_table,
        vector_column=settings.vector_column,
        dataset_source=settings.dataset_source,
    )


def observe_source(settings: Settings) -> SourceState:
    """Say what the source tables hold now; its data version changes when they do."""
    return postgres_observer.observe(source_reader(settings))


def ingest_file(settings: Settings, path: Path, *, progress: Progress | None = None, **options: Any) -> IngestReport:
    """Load a file into the source tables; `options` are those of `source.load.ingest`.

    Raises:
        LvmError: If the file or the database cannot be used; nothing of the file is loaded then.
    """
    writer = PostgresWriter(
        databases.source_url(settings),
        entry_table=settings.entry_table,
        vector_table=settings.vector_table,
        vector_column=settings.vector_column,
    )
    return ingest(path, writer, settings=settings, progress=progress, **options)


# --- concepts ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StagedConcepts:
    """A concept table that waits for its checks; `path` is None where the source is too broken to write one."""

    path: Path | None
    metadata: ConceptsMetadata | None
    findings: list[Finding]


def stage_concepts(settings: Settings, *, progress: Progress | None = None) -> StagedConcepts:
    """Extract the concepts of the source into a staged file and run every invariant on them."""
    staged_path = _staged_path(settings, "concepts")
    extraction = extract_concepts(
        source_reader(settings), options=extract_options(settings), staged_path=staged_path, progress=progress
    )
    findings = extraction.findings
    if extraction.path is not None and extraction.metadata is not None:
        findings = check_staged_concepts(settings, extraction.path, extraction.metadata)
    return StagedConcepts(path=extraction.path, metadata=extraction.metadata, findings=findings)


def check_staged_concepts(settings: Settings, path: Path, metadata: ConceptsMetadata) -> list[Finding]:
    """Run every concept invariant; canaries are encoded again where the encoder is at hand."""
    encoder = encoder_of_space(metadata.space_id, encoders_dir=settings.encoders_dir)
    return check_concepts(path, encoder=encoder, context_length=settings.context_length)


def promote_concepts(settings: Settings, staged: StagedConcepts) -> ConceptsMetadata:
    """Put a staged concept table in its place, and write the verification report either way.

    Raises:
        InvariantError: If a blocking finding failed; the staged file is deleted and the earlier product stays.
    """
    _report(settings, staged.path, staged.findings)
    if blocking_failures(staged.findings):
        _discard(staged.path)
        raise_on_blocking(staged.findings)
    assert staged.path is not None
    assert staged.metadata is not None
    files.promote(staged.path, settings.concepts_path)
    return staged.metadata


# --- sequences ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StagedSequences:
    """A sequence table that waits for its checks."""

    path: Path
    metadata: SequencesMetadata
    findings: list[Finding]


def stage_sequences(settings: Settings, *, concepts_path: Path | None = None) -> StagedSequences:
    """Cut the promoted concepts (or those at `concepts_path`) into sequences and check them."""
    staged_path = _staged_path(settings, "sequences")
    findings = build_sequences(concepts_path or settings.concepts_path, staged_path, options=sequence_options(settings))
    return StagedSequences(path=staged_path, metadata=read_sequences_metadata(staged_path), findings=findings)


def promote_sequences(settings: Settings, staged: StagedSequences) -> SequencesMetadata:
    """Put a staged sequence table in its place, and complete the verification report.

    Raises:
        InvariantError: If a blocking finding failed; the staged file is deleted and the earlier product stays.
    """
    if blocking_failures(staged.findings):
        _discard(staged.path)
        raise_on_blocking(staged.findings)
    files.promote(staged.path, settings.sequences_path)
    verify_products(settings)
    return staged.metadata


# --- verification ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What every invariant found, and the report that says so."""

    findings: list[Finding]
    report: dict[str, Any]
    report_paths: tuple[Path, Path]

    @property
    def passed(self) -> bool:
        """Whether no blocking invariant failed."""
        return not blocking_failures(self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return verdict and report as plain JSON values."""
        return {"passed": self.passed, **self.report, "report_paths": [str(path) for path in self.report_paths]}


def verify_source(settings: Settings, *, progress: Progress | None = None) -> Verification:
    """Check source, concepts and sequences as the source is now; products stay as they are."""
    concepts = stage_concepts(settings, progress=progress)
    sequences: StagedSequences | None = None
    try:
        findings = list(concepts.findings)
        if concepts.path is not None and not blocking_failures(findings):
            sequences = stage_sequences(settings, concepts_path=concepts.path)
            findings += sequences.findings
        return _report(settings, concepts.path, findings, sequences.path if sequences else None)
    finally:
        _discard(concepts.path)
        _discard(sequences.path if sequences else None)


def verify_products(settings: Settings) -> Verification:
    """Check the promoted concept and sequence tables."""
    from lvm_pipeline.concepts.schema import read_concepts_metadata
    from lvm_pipeline.sequences.invariants import check_sequences

    metadata = read_concepts_metadata(settings.concepts_path)
    findings = check_staged_concepts(settings, settings.concepts_path, metadata)
    findings += check_sequences(settings.concepts_path, settings.sequences_path)
    return _report(settings, settings.concepts_path, findings, settings.sequences_path)


def _report(
    settings: Settings, concepts_path: Path | None, findings: Sequence[Finding], sequences_path: Path | None = None
) -> Verification:
    summary = sequences_summary(concepts_path, sequences_path) if concepts_path and sequences_path else None
    report = verification_report(concepts_path, findings=findings, sequences=summary)
    paths = write_verification_report(settings.reports_dir, report)
    return Verification(findings=list(findings), report=report, report_paths=paths)


# --- trained_model -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StagedModel:
    """A trained model that waits for its checks, and where its MLflow run is."""

    architecture: str
    path: Path
    info: "TrainedModelInfo"
    findings: list[Finding]
    mlflow_run_id: str | None
    mlflow_url: str | None


def stage_model(
    settings: Settings, architecture: str, *, tracker: "Tracker | None" = None, progress: "OnProgress | None" = None
) -> StagedModel:
    """Train one architecture on the promoted data into a staged folder and check the result.

    The folder is the same from try to try, so a killed training goes on from its last checkpoint.
    """
    from lvm_pipeline.training.data import load_training_data
    from lvm_pipeline.training.invariants import check_trained_model
    from lvm_pipeline.training.loop import train
    from lvm_pipeline.training.tracking import NullTracker

    data = load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)
    tracker = tracker or NullTracker()
    path = settings.models_dir / ".staging" / architecture
    trained = train(
        training_config_of(settings, architecture), data, output_dir=path, tracker=tracker, progress=progress
    )
    note_tracking(path, tracker)
    findings = check_trained_model(path, settings.concepts_path, settings.sequences_path, settings.vectors_dir)
    return StagedModel(
        architecture=architecture,
        path=path,
        info=trained.info,
        findings=findings,
        mlflow_run_id=tracker.run_id,
        mlflow_url=tracker.run_url,
    )


def promote_model(settings: Settings, staged: StagedModel) -> Path:
    """Put a staged trained model in its place.

    Raises:
        InvariantError: If a blocking finding failed; the earlier trained model stays.
    """
    raise_on_blocking(staged.findings)
    files.replace_dir(staged.path, settings.models_dir / staged.architecture)
    return settings.models_dir / staged.architecture


def note_tracking(model_dir: Path, tracker: "Tracker") -> None:
    """Keep beside the weights which MLflow run made them."""
    files.write_json(model_dir / TRACKING_FILE, {"mlflow_run_id": tracker.run_id, "mlflow_url": tracker.run_url})


def training_config_of(settings: Settings, architecture: str, **overrides: Any) -> "TrainingConfig":
    """Return the training that the settings ask for; what they leave open keeps the training's own default."""
    from lvm_pipeline.training.config import training_config

    asked = {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        **overrides,
    }
    return training_config(
        {
            "architecture": architecture,
            "preset": settings.preset,
            "mode": settings.training_mode,
            "seed": settings.seed,
            "device": settings.device,
            "num_threads": settings.num_threads,
            **{name: value for name, value in asked.items() if value is not None},
        }
    )


# --- what the stages share ---------------------------------------------------------------------


def _staged_path(settings: Settings, name: str) -> Path:
    settings.staging_dir.mkdir(parents=True, exist_ok=True)
    return settings.staging_dir / f"{name}-{uuid.uuid4().hex}.parquet"


def _discard(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def extract_options(settings: Settings) -> ExtractOptions:
    """Return how the settings ask to read the source."""
    return ExtractOptions(
        article_column=settings.article_column,
        position_column=settings.position_column,
        accept_table_order=settings.accept_table_order,
        duplicates=settings.duplicates,
        space_id=settings.space_id,
    )


def sequence_options(settings: Settings) -> SequenceOptions:
    """Return how the settings ask to cut and split."""
    return SequenceOptions(
        context_length=settings.context_length,
        split_seed=settings.split_seed,
        train_fraction=settings.train_fraction,
        validation_fraction=settings.validation_fraction,
        validation_articles=settings.validation_articles,
        boundaries=settings.boundaries,
        split=settings.split,
    )
