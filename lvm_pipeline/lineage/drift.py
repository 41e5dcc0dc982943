"""The concepts that the champion was trained on, kept for comparison, and how far the present ones are from them."""

from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline import files
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import explain_full_disk
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.concepts.drift.compare import Drift

NO_REFERENCE = "there is no champion whose training data are at hand"


def keep_champion_concepts(settings: Settings, fingerprint: str) -> None:
    """Keep the concept table of this fingerprint, which the champion was trained on, beside the present one.

    It is a second name of the same file, which costs no space until the present table is replaced. Where a champion's
    concepts are gone, nothing is kept: those of an earlier champion would be a false reference.

    Raises:
        LvmError: If a table cannot be read, or the disk is full.
    """
    kept = settings.champion_concepts_path
    if _is_table(kept, fingerprint):
        return
    if _is_table(settings.concepts_path, fingerprint):
        with explain_full_disk(settings.data_dir):
            files.link_or_copy(settings.concepts_path, kept)
    else:
        kept.unlink(missing_ok=True)


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
    return drift, write_drift_report(settings.reports_dir, drift)[1]


def _is_table(path: Path, fingerprint: str) -> bool:
    return path.is_file() and read_concepts_metadata(path).fingerprint == fingerprint
