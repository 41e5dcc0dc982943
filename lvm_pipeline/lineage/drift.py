"""Drift: the data that the champion was trained on, kept as the reference, and the comparison with them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline import files
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import explain_full_disk
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding
from lvm_pipeline.lineage.invariants import with_set_severities
from lvm_pipeline.measures.error_drift import champion_predicts_as_before
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.concepts.drift.compare import Drift

NO_REFERENCE = "there is no champion whose training data are available"


def keep_champion_data(settings: Settings, fingerprints: Mapping[str, str]) -> None:
    """Keep the concept and sequence tables that the champion was trained on beside the present ones.

    They are second names of the same files, which cost no space until the present tables are replaced. Where a
    champion's data are gone, nothing is kept: those of an earlier champion would be a false reference.

    Raises:
        LvmError: If a table cannot be read, or the disk is full.
    """
    _keep(settings.concepts_path, settings.champion_concepts_path, fingerprints["concepts"])
    _keep(settings.sequences_path, settings.champion_sequences_path, fingerprints["sequences"])


def _keep(present: Path, kept: Path, fingerprint: str) -> None:
    if _fingerprint(kept) == fingerprint:
        return
    if _fingerprint(present) == fingerprint:
        with explain_full_disk(kept.parent):
            files.link_or_copy(present, kept)
    else:
        kept.unlink(missing_ok=True)


def _fingerprint(path: Path) -> str | None:
    if not path.is_file():
        return None
    is_sequences = path.stem.endswith("sequences")
    return (read_sequences_metadata if is_sequences else read_concepts_metadata)(path).fingerprint


def check_drift(settings: Settings) -> tuple["Drift", Path]:
    """Compare the promoted concepts with the champion's; return what was found and where the drift report is.

    Raises:
        LvmError: If there are no concepts, or a table cannot be read.
    """
    from lvm_pipeline.concepts.drift.compare import compare_concepts, not_compared
    from lvm_pipeline.concepts.drift.report import write_drift_report

    reference = settings.champion_concepts_path
    if reference.is_file():
        drift = compare_concepts(reference, settings.concepts_path)
    else:
        drift = not_compared(settings.concepts_path, NO_REFERENCE)
    findings = [*drift.findings, check_error(settings, drift.arrived)]
    drift = replace(drift, findings=with_set_severities(settings, findings))
    return drift, write_drift_report(settings.reports_dir, drift)[1]


def check_error(settings: Settings, new_articles: list[str] | None) -> Finding:
    """Compare the champion's error on new articles (None: not known) with that on its validation articles."""
    from lvm_pipeline.evaluation.new_articles import errors_on_new
    from lvm_pipeline.lineage.results import champions_trial, read_champion
    from lvm_pipeline.training.data import load_training_data

    if new_articles is None or read_champion(settings).get("name") is None:
        return champion_predicts_as_before.not_checked(NO_REFERENCE)
    if not new_articles:
        return champion_predicts_as_before.not_checked("no article is new since the champion was trained")
    try:
        champion = champions_trial(settings)
        assert champion is not None
        reference = load_training_data(
            settings.champion_concepts_path,
            settings.champion_sequences_path,
            settings.vectors_dir,
            encoders_dir=settings.encoders_dir,
            decoders_dir=settings.decoders_dir,
        )
        found = errors_on_new(
            champion.model_dir,
            reference,
            settings.concepts_path,
            new_articles=new_articles,
            vectors_dir=settings.vectors_dir,
            device=settings.device,
            cache_dir=settings.baselines_dir,
        )
    except LvmError as error:
        return champion_predicts_as_before.not_checked(f"the champion could not be scored: {error}")
    if found is None:
        return champion_predicts_as_before.not_checked("no new article is long enough for a sequence")
    return champion_predicts_as_before(*found)
