"""Source table, concepts and sequences: staged, checked and promoted; and the verification report."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.adapters import databases, postgres_observer
from lvm_pipeline.adapters.postgres_observer import SourceState
from lvm_pipeline.adapters.postgres_reader import PostgresReader
from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
from lvm_pipeline.concepts.invariants import check_concepts
from lvm_pipeline.concepts.kept import EarlierExtractions
from lvm_pipeline.concepts.report import JSON_NAME, verification_report, write_verification_report
from lvm_pipeline.concepts.schema import ConceptsMetadata, read_concepts_metadata
from lvm_pipeline.findings import Finding, blocking_failures, raise_on_blocking
from lvm_pipeline.lineage.invariants import findings_of, with_set_severities
from lvm_pipeline.lineage.spaces import keep_space_fingerprint, space_fingerprint
from lvm_pipeline.sequences.build import (
    SequenceOptions,
    build_sequences,
    refuse_concepts_without_sequences,
    sequences_summary,
)
from lvm_pipeline.sequences.invariants import check_sequences
from lvm_pipeline.sequences.schema import SequencesMetadata, read_sequences_metadata
from lvm_pipeline.settings import Settings
from lvm_pipeline.words import counted

if TYPE_CHECKING:
    from lvm_pipeline.source.ingest_report import IngestReport

Progress = Callable[[int, int], None]  # done, total
DEMO_ENCODER = "lsa-768"


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
    """Return the state of the source tables; its data version changes when they do."""
    return postgres_observer.observe(source_reader(settings))


def ingest_file(settings: Settings, path: Path, *, progress: Progress | None = None, **options: Any) -> "IngestReport":
    """Load a file into the source tables; `options` are those of `source.load.ingest`.

    Raises:
        LvmError: If the file or the database cannot be used; nothing of the file is loaded then.
    """
    from lvm_pipeline.adapters.postgres_writer import PostgresWriter
    from lvm_pipeline.source.load import ingest

    writer = PostgresWriter(
        databases.source_url(settings),
        entry_table=settings.entry_table,
        vector_table=settings.vector_table,
        vector_column=settings.vector_column,
    )
    return ingest(path, writer, settings=settings, progress=progress, **options)


def ingest_demo_corpus(settings: Settings, *, encoder: str, progress: Progress | None = None) -> "IngestReport":
    """Make the demo corpus and load it; each encoder has a dataset source of its own, since spaces never mix.

    Raises:
        LvmError: If the encoder or the database cannot be used.
    """
    from lvm_pipeline.source import corpus

    path = corpus.demo_articles(settings.home / "corpus", num_processes=2)
    is_default = encoder == DEMO_ENCODER
    dataset_source = corpus.DATASET_SOURCE if is_default else f"{corpus.DATASET_SOURCE}-{Path(encoder).name}"
    return ingest_file(settings, path, progress=progress, dataset_source=dataset_source, encoder=encoder)


@dataclass(frozen=True, kw_only=True)
class StagedConcepts:
    """A concept table that waits for its checks; `path` is None where the source is too broken to write one."""

    path: Path | None
    metadata: ConceptsMetadata | None
    findings: list[Finding]
    num_articles_kept: int = 0  # articles taken from the promoted table, since they have not changed
    num_articles_read: int = 0  # articles read from the source

    def extraction_in_words(self) -> str:
        """Say how many articles were read."""
        kept = (
            "; " + counted(self.num_articles_kept, "has not changed and was kept", "have not changed and were kept")
            if self.num_articles_kept
            else ""
        )
        return counted(self.num_articles_read, "article was", "articles were") + f" read from the source{kept}"


def stage_concepts(
    settings: Settings, *, progress: Progress | None = None, is_full: bool | None = None
) -> StagedConcepts:
    """Extract the concepts of the source into a staged file and run every invariant on them.

    `is_full` says whether unchanged articles are read again, too (default: what the settings say).
    """
    is_full = settings.full_extraction if is_full is None else is_full
    with _staging(settings, "concepts") as staged_path:
        extraction = extract_concepts(
            source_reader(settings),
            options=extract_options(settings),
            staged_path=staged_path,
            progress=progress,
            earlier=None if is_full else _earlier_extractions(settings),
        )
        findings = with_set_severities(settings, extraction.findings)
        if extraction.path is not None and extraction.metadata is not None:
            findings = check_staged_concepts(settings, extraction.path, extraction.metadata)
    return StagedConcepts(
        path=extraction.path,
        metadata=extraction.metadata,
        findings=findings,
        num_articles_kept=extraction.num_articles_kept,
        num_articles_read=extraction.num_articles_read,
    )


def _earlier_extractions(settings: Settings) -> EarlierExtractions:
    return EarlierExtractions(concepts_path=settings.concepts_path, parts_dir=settings.extraction_dir)


def check_staged_concepts(settings: Settings, path: Path, metadata: ConceptsMetadata) -> list[Finding]:
    """Run every concept invariant; a few concepts are encoded again if the encoder is available."""
    from lvm_pipeline.source.encoders.registry import encoder_of_space

    encoder = encoder_of_space(metadata.space_id, encoders_dir=settings.encoders_dir)
    findings = check_concepts(
        path,
        encoder=encoder,
        fingerprint=space_fingerprint(settings, metadata.space_id),
        context_length=settings.context_length,
    )
    return with_set_severities(settings, findings)


def promote_concepts(settings: Settings, staged: StagedConcepts) -> ConceptsMetadata:
    """Promote a staged concept table if sequences can be made of it, and write the verification report.

    Raises:
        InvariantError: If a blocking finding failed; the staged file is deleted and the earlier product stays.
        LvmError: If the concepts give no sequences; the report stays that of the earlier product, too.
    """
    try:
        if staged.path is not None and not blocking_failures(staged.findings):
            refuse_concepts_without_sequences(
                staged.path, options=sequence_options(settings), links_path=_links_path(settings)
            )
        _report(settings, staged.path, staged.findings)
        raise_on_blocking(staged.findings)
        return _promoted(settings, staged)
    finally:
        _discard(staged.path)


def _promoted(settings: Settings, staged: StagedConcepts) -> ConceptsMetadata:
    assert staged.path is not None
    assert staged.metadata is not None
    files.promote(staged.path, settings.concepts_path)
    keep_space_fingerprint(settings)
    return staged.metadata


@dataclass(frozen=True, kw_only=True)
class StagedSequences:
    """A sequence table that waits for its checks."""

    path: Path
    metadata: SequencesMetadata
    findings: list[Finding]


def stage_sequences(settings: Settings, *, concepts_path: Path | None = None) -> StagedSequences:
    """Cut the promoted concepts (or those at `concepts_path`) into sequences and check them."""
    with _staging(settings, "sequences") as staged_path:
        findings = build_sequences(
            concepts_path or settings.concepts_path,
            staged_path,
            options=sequence_options(settings),
            links_path=_links_path(settings) if concepts_path is None else None,
        )
        return StagedSequences(
            path=staged_path,
            metadata=read_sequences_metadata(staged_path),
            findings=with_set_severities(settings, findings),
        )


def promote_sequences(
    settings: Settings, staged: StagedSequences, *, concept_findings: Sequence[Finding] | None = None
) -> SequencesMetadata:
    """Promote a staged sequence table, and complete the verification report.

    `concept_findings` None: those of the verification report, written by another process.

    Raises:
        InvariantError: If a blocking finding failed; the staged file is deleted and the earlier product stays.
    """
    if blocking_failures(staged.findings):
        _discard(staged.path)
        raise_on_blocking(staged.findings)
    files.promote(staged.path, settings.sequences_path)
    if concept_findings is None:
        concept_findings = _reported_concept_findings(settings)
    findings = [*concept_findings, *staged.findings]
    _report(settings, settings.concepts_path, findings, settings.sequences_path)
    return staged.metadata


def promote_with_sequences(
    settings: Settings, concepts: StagedConcepts, sequences: StagedSequences | None = None
) -> None:
    """Promote staged concepts and sequences (cut now if not given), or neither if either cannot be used.

    Raises:
        LvmError: If the concepts give no sequences, with what to do.
        InvariantError: If a blocking finding failed.
    """
    try:
        if concepts.path is None or blocking_failures(concepts.findings):
            promote_concepts(settings, concepts)  # which reports and refuses
            return
        sequences = sequences or stage_sequences(settings, concepts_path=concepts.path)
        if blocking_failures(sequences.findings):
            _report(settings, concepts.path, [*concepts.findings, *sequences.findings], sequences.path)
            raise_on_blocking(sequences.findings)
        _report(settings, concepts.path, concepts.findings)
        _promoted(settings, concepts)
        promote_sequences(settings, sequences, concept_findings=concepts.findings)
    finally:
        _discard(concepts.path)
        _discard(sequences.path if sequences else None)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The findings of every invariant, and the report."""

    findings: list[Finding]
    report: dict[str, Any]
    report_paths: tuple[Path, Path]

    @property
    def passed(self) -> bool:
        return not blocking_failures(self.findings)

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, **self.report, "report_paths": [str(path) for path in self.report_paths]}


def verify_source(settings: Settings, *, progress: Progress | None = None) -> Verification:
    """Check source, concepts and sequences as the source is now, read in full; products stay as they are."""
    concepts = stage_concepts(settings, progress=progress, is_full=True)
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
    metadata = read_concepts_metadata(settings.concepts_path)
    findings = check_staged_concepts(settings, settings.concepts_path, metadata)
    paths = settings.concepts_path, settings.sequences_path
    of_sequences = findings_of("sequences", lambda: checked_sequences(settings, *paths), earlier=findings)
    were_read = any(finding.was_checked for finding in of_sequences)
    return _report(settings, paths[0], [*findings, *of_sequences], paths[1] if were_read else None)


def checked_sequences(settings: Settings, concepts_path: Path, sequences_path: Path) -> list[Finding]:
    """Check a sequence table with the sizes and severities of the settings."""
    findings = check_sequences(
        concepts_path,
        sequences_path,
        min_articles=settings.min_validation_articles,
        min_sequences=settings.min_validation_sequences,
    )
    return with_set_severities(settings, findings)


def _reported_concept_findings(settings: Settings) -> list[Finding]:
    """Return the findings on the promoted concepts, from their report, or checked again if the report is of others."""
    metadata = read_concepts_metadata(settings.concepts_path)
    report = _read_report(settings)
    if report["concepts"].get("fingerprint") == metadata.fingerprint and not report["sequences"]:
        return [Finding.from_json(values) for values in report["findings"]]
    return check_staged_concepts(settings, settings.concepts_path, metadata)


def reported_findings(settings: Settings) -> list[Finding] | None:
    """Return what the verification report says of the promoted tables; None where it is missing or of others."""
    report = _read_report(settings)
    fingerprints = {
        "concepts": read_concepts_metadata(settings.concepts_path).fingerprint,
        "sequences": read_sequences_metadata(settings.sequences_path).fingerprint,
    }
    if any(report[product].get("fingerprint") != found for product, found in fingerprints.items()):
        return None
    return [Finding.from_json(values) for values in report["findings"]]


def _read_report(settings: Settings) -> dict[str, Any]:
    report = files.read_json(settings.reports_dir / JSON_NAME, remedy="delete it, and run `lvm verify --products`.")
    return {
        "findings": report.get("findings", []),
        "concepts": report.get("concepts") or {},
        "sequences": report.get("sequences") or {},
    }


def _report(
    settings: Settings, concepts_path: Path | None, findings: Sequence[Finding], sequences_path: Path | None = None
) -> Verification:
    summary = sequences_summary(concepts_path, sequences_path) if concepts_path and sequences_path else None
    report = verification_report(concepts_path, findings=findings, sequences=summary)
    paths = write_verification_report(settings.reports_dir, report)
    return Verification(findings=list(findings), report=report, report_paths=paths)


@contextmanager
def _staging(settings: Settings, name: str) -> Iterator[Path]:
    """Yield the path for a staged table. If the block raises, the table is deleted.

    Raises:
        LvmError: If the setting `severities` cannot be used, which is better said before the work than after it.
    """
    with_set_severities(settings, [])
    settings.staging_dir.mkdir(parents=True, exist_ok=True)
    path = settings.staging_dir / f"{name}-{uuid.uuid4().hex}.parquet"
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _links_path(settings: Settings) -> Path:
    """Near-duplicates found while promoting concepts, so that building the sequences need not search again."""
    return settings.data_dir / "near_duplicates.json"


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
        min_validation_articles=settings.min_validation_articles,
        min_validation_sequences=settings.min_validation_sequences,
        boundaries=settings.boundaries,
        split=settings.split,
    )
