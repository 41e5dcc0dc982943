"""The invariants of every asset, and the table of them in `docs/checks.md`."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping

from lvm_pipeline.concepts import invariants as of_concepts
from lvm_pipeline.concepts.drift.compare import drift_invariants
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation import gates as of_report
from lvm_pipeline.findings import Finding, Invariant, Severity, blocking_failures
from lvm_pipeline.measures.error_drift import champion_predicts_as_before
from lvm_pipeline.sequences import invariants as of_sequences
from lvm_pipeline.settings import Settings
from lvm_pipeline.tables import table_of
from lvm_pipeline.training import invariants as of_model

INVARIANTS: Mapping[str, tuple[Invariant, ...]] = {
    "concepts": of_concepts.invariants(),
    "drift": (*drift_invariants(), champion_predicts_as_before),
    "sequences": of_sequences.invariants(),
    "trained_model": of_model.invariants(),
    "evaluation_report": of_report.invariants(),
}
TITLES = {"drift": "`drift` (on the asset `concepts`, compared with what the champion was trained on)"}


def with_set_severities(settings: Settings, findings: Iterable[Finding]) -> list[Finding]:
    """Replace severities by those of the setting `severities`; a failed finding says so.

    Raises:
        LvmError: If the setting names no check or no severity.
    """
    severities = _set_severities(settings.severities or "")
    return [_with_severity(finding, severities.get(finding.name)) for finding in findings]


def findings_of(asset: str, check: Callable[[], list[Finding]], *, earlier: Iterable[Finding]) -> list[Finding]:
    """Return the findings of `check`; if it raises and an `earlier` finding is a blocking failure, none is checked."""
    try:
        return check()
    except LvmError:
        if not blocking_failures(earlier):
            raise
    return [each.not_checked("the concepts fail a blocking check") for each in INVARIANTS[asset]]


def _set_severities(text: str) -> dict[str, Severity]:
    known = {each.name for invariants in INVARIANTS.values() for each in invariants}
    severities = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, severity = (word.strip() for word in part.partition("="))
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "docs/checks.md lists them."
            raise LvmError(f"LVM_SEVERITIES names the check {name!r}, which does not exist; {hint}")
        if severity not in list(Severity):
            raise LvmError(f"LVM_SEVERITIES sets {name} to {severity!r}; set it to `warning` or `blocking`.")
        severities[name] = Severity(severity)
    return severities


def _with_severity(finding: Finding, severity: Severity | None) -> Finding:
    if severity is None:
        return finding
    message = finding.message if finding.passed else f"{finding.message} (severity set to {severity})"
    details = {**finding.details, "severity_set_to": severity.value}
    return dataclasses.replace(finding, severity=severity, message=message, details=details)


def as_markdown() -> str:
    """Return `docs/checks.md`; `make docs` writes it."""
    lines = [
        "# Checks",
        "",
        "A failed *blocking* check stops everything downstream, and the asset keeps its earlier version.",
        "A *warning* is only reported. This file is generated from the code by `make docs`.",
    ]
    for asset, invariants in INVARIANTS.items():
        rows = [
            {"check": f"`{each.name}`", "severity": each.severity, "meaning": each.meaning, "if it fails": each.remedy}
            for each in invariants
        ]
        lines += ["", f"## {TITLES.get(asset, f'`{asset}`')}", "", table_of(rows).markdown()]
    return "\n".join(lines) + "\n"
