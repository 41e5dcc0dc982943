"""The invariants of promoted products, checked again without rebuilding the products."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, blocking_failures
from lvm_pipeline.lineage.data import Verification, check_staged_concepts, checked_sequences, verify_products
from lvm_pipeline.lineage.drift import check_drift
from lvm_pipeline.lineage.invariants import findings_of, with_set_severities
from lvm_pipeline.lineage.results import champions_trial, compute_report
from lvm_pipeline.lineage.trials import TrialFolder, latest_trial
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.training.rescore import Rescore

logger = logging.getLogger(__name__)

DATA_CHANGED = "the data have changed since the model was trained"


@dataclass(frozen=True, kw_only=True)
class ProductVerification:
    """Findings on the promoted tables, on drift since the champion was trained, and on the champion's model."""

    tables: Verification
    drift: list[Finding]
    model: list[Finding]
    champion: str | None  # trial id of the checked model

    @property
    def findings(self) -> list[Finding]:
        return [*self.tables.findings, *self.drift, *self.model]

    @property
    def report(self) -> dict[str, Any]:
        return self.tables.report

    @property
    def report_paths(self) -> tuple[Path, Path]:
        return self.tables.report_paths

    @property
    def passed(self) -> bool:
        return not blocking_failures(self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            **self.tables.as_json(),
            "passed": self.passed,
            "champion": self.champion,
            "drift": [finding.as_json() for finding in self.drift],
            "model": [finding.as_json() for finding in self.model],
        }


def verify_all_products(settings: Settings) -> ProductVerification:
    """Check the promoted tables, drift, and the model of the champion if it is here.

    Raises:
        LvmError: If there are no promoted tables, or one cannot be read.
    """
    tables = verify_products(settings)
    drift = findings_of("drift", lambda: check_drift(settings)[0].findings, earlier=tables.findings)
    folder, model = _champion_if_here(settings), []
    if folder is not None:
        model = findings_of("trained_model", lambda: check_model(settings, folder), earlier=tables.findings)
    return ProductVerification(
        tables=tables,
        drift=drift,
        model=model,
        champion=folder.trial_id if folder is not None else None,
    )


def _champion_if_here(settings: Settings) -> TrialFolder | None:
    try:
        return champions_trial(settings)
    except LvmError as error:
        logger.warning("The champion's model is not checked: %s", error)
        return None


def check_concepts_product(settings: Settings) -> list[Finding]:
    """Check the promoted concept table."""
    metadata = read_concepts_metadata(settings.concepts_path)
    return check_staged_concepts(settings, settings.concepts_path, metadata)


def check_sequences_product(settings: Settings) -> list[Finding]:
    """Check the promoted sequence table."""
    return checked_sequences(settings, settings.concepts_path, settings.sequences_path)


def check_model(settings: Settings, folder: TrialFolder) -> list[Finding]:
    """Check a trained model; checks that need its training data are skipped if the data have changed."""
    from lvm_pipeline.training.invariants import (
        check_trained_model,
        checkpoint_reproduces_its_score,
        prediction_is_not_the_mean_vector,
    )

    info = folder.info()
    if info is None:
        raise LvmError(f"{folder.model_dir} holds no readable trained model; train {folder.trial_id} again.")
    tables = settings.promoted_tables
    concepts = read_concepts_metadata(settings.concepts_path)
    present = {
        "concepts": concepts.fingerprint,
        "sequences": read_sequences_metadata(settings.sequences_path).fingerprint,
    }
    if info.content_fingerprint == info.content_in(concepts) and all(
        info.fingerprints[name] == fingerprint for name, fingerprint in present.items()
    ):
        return with_set_severities(settings, check_trained_model(folder.model_dir, *tables))
    needs_data = (checkpoint_reproduces_its_score, prediction_is_not_the_mean_vector)
    names = {each.name for each in needs_data}
    others = [
        each for each in check_trained_model(folder.model_dir, *tables, rescorer=_refuse) if each.name not in names
    ]
    return with_set_severities(settings, [*(each.not_checked(DATA_CHANGED) for each in needs_data), *others])


def _refuse(*_tables: Path) -> "Rescore":
    raise LvmError(DATA_CHANGED)


def check_ensemble(settings: Settings, folder: TrialFolder) -> list[Finding]:
    """Check an ensemble, its model and its scores."""
    of_both = [*check_model(settings, folder), *compute_report(settings, folder).findings]
    return list({finding.name: finding for finding in of_both}.values())


def check_latest_report(settings: Settings, architecture: str) -> list[Finding]:
    """Score the latest trained model of an architecture again and check what a report checks; nothing is written."""
    return list(compute_report(settings, latest_trial(settings, architecture)).findings)
