"""The stages with their products: what asset bodies and `lvm run` both call.

Each function takes the settings, makes the library calls of one stage and returns a small record.
Products are staged, checked, and promoted only when no blocking finding failed, so a product that
exists has passed. Nothing here knows of Dagster; torch and MLflow are imported by the functions that
need them, so that a code server which only lists the assets stays small.
"""

import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.adapters import databases
from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.report import verification_report, write_verification_report
from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.findings import Finding, raise_on_blocking
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences, sequences_summary
from lvm_pipeline.sequences.invariants import check_sequences
from lvm_pipeline.sequences.schema import SequencesMetadata, read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.training.tracking import Tracker

Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True, kw_only=True)
class StagedConcepts:
    """A concept table that waits for its checks; `path` is None where the source is too broken to write one."""

    path: Path | None
    metadata: ConceptsMetadata | None
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class StagedSequences:
    """A sequence table that waits for its checks."""

    path: Path
    metadata: SequencesMetadata
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class StagedModel:
    """A trained model that waits for its checks, and where its MLflow run is."""

    architecture: str
    path: Path
    info: Any
    findings: list[Finding]
    mlflow_run_id: str | None = None
    mlflow_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Champion:
    """What the champion stage decided, as it stands in `champion.json`."""

    decision: dict[str, Any] = field(default_factory=dict)


# --- cpe_entry ---------------------------------------------------------------------------------


def source_reader(settings: Settings) -> PostgresReader:
    """Return the reader of the source table, starting the embedded server when it is the source."""
    return PostgresReader(
        databases.source_url(settings),
        entry_table=settings.entry_table,
        vector_table=settings.vector_table,
        vector_column=settings.vector_column,
        dataset_source=settings.dataset_source,
    )


# --- concepts ----------------------------------------------------------------------------------


def stage_concepts(settings: Settings, *, progress: Progress | None = None) -> StagedConcepts:
    """Extract the concepts of the source table into a staged file and run every invariant on them."""
    settings.staging_dir.mkdir(parents=True, exist_ok=True)
    staged_path = settings.staging_dir / f"concepts-{uuid.uuid4().hex}.parquet"
    extraction = extract_concepts(
        source_reader(settings), options=extract_options(settings), staged_path=staged_path, progress=progress
    )
    findings = list(extraction.findings)
    if extraction.path is not None:
        findings = merge_findings(findings, check_concepts(extraction.path, encoder=_encoder_of(settings, extraction.metadata)))
    return StagedConcepts(path=extraction.path, metadata=extraction.metadata, findings=findings)


def promote_concepts(settings: Settings, staged: StagedConcepts) -> ConceptsMetadata:
    """Put a staged concept table in its place.

    Raises:
        InvariantError: If a blocking finding failed; the staged file is deleted and the earlier product stays.
    """
    _raise_and_discard(staged.findings, staged.path)
    assert staged.path is not None
    assert staged.metadata is not None
    files.promote(staged.path, settings.concepts_path)
    return staged.metadata


# --- sequences ---------------------------------------------------------------------------------


def stage_sequences(settings: Settings, *, concepts_path: Path | None = None) -> StagedSequences:
    """Cut the promoted concepts (or those at `concepts_path`) into sequences and check them."""
    concepts_path = concepts_path or settings.concepts_path
    settings.staging_dir.mkdir(parents=True, exist_ok=True)
    staged_path = settings.staging_dir / f"sequences-{uuid.uuid4().hex}.parquet"
    built = build_sequences(concepts_path, staged_path, options=sequence_options(settings))
    findings = merge_findings(built, check_sequences(concepts_path, staged_path))
    return StagedSequences(path=staged_path, metadata=read_sequences_metadata(staged_path), findings=findings)


def promote_sequences(settings: Settings, staged: StagedSequences) -> SequencesMetadata:
    """Put a staged sequence table in its place.

    Raises:
        InvariantError: If a blocking finding failed; the staged file is deleted and the earlier product stays.
    """
    _raise_and_discard(staged.findings, staged.path)
    files.promote(staged.path, settings.sequences_path)
    return staged.metadata


# --- trained_model -----------------------------------------------------------------------------


def stage_model(
    settings: Settings, architecture: str, *, tracker: "Tracker | None" = None, progress: Any = None, **overrides: Any
) -> StagedModel:
    """Train one architecture on the promoted data into a staged folder and check the result.

    `overrides` replace fields of the training config. The folder is the same from try to try, so a
    killed training resumes from its last checkpoint.
    """
    raise NotImplementedError


def promote_model(settings: Settings, staged: StagedModel) -> Path:
    """Put a staged trained model in its place.

    Raises:
        InvariantError: If a blocking finding failed; the earlier trained model stays.
    """
    raise NotImplementedError


# --- evaluation_report, leaderboard, champion ----------------------------------------------------


def evaluate_architecture(settings: Settings, architecture: str) -> dict[str, Any]:
    """Score the trained model of an architecture on the validation split and write its report (JSON, HTML)."""
    raise NotImplementedError


def build_leaderboard(settings: Settings) -> dict[str, Any]:
    """Put all reports of the present sequences into one table and write it (JSON, HTML)."""
    raise NotImplementedError


def choose_champion(settings: Settings) -> dict[str, Any]:
    """Hold the best challenger against the present champion by the fixed rule and move the alias if it wins."""
    raise NotImplementedError
