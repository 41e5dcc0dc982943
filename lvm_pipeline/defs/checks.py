"""Turn invariants into asset check specs, and findings into check results.

The severity of a finding is the severity of its check result. Products are promoted after their checks: if a blocking
check fails, nothing is materialised and the earlier product stays.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from lvm_pipeline.defs.metadata import numbers
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, Invariant, Severity, blocking_failures

SEVERITIES = {Severity.BLOCKING: dg.AssetCheckSeverity.ERROR, Severity.WARNING: dg.AssetCheckSeverity.WARN}


def check_specs(
    asset: str,
    invariants: Iterable[Invariant],
    *,
    partitions_def: dg.PartitionsDefinition | None = None,
    automation_condition: dg.AutomationCondition | None = None,
) -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # Dagster calls checks of one partition a preview
        return [
            dg.AssetCheckSpec(
                invariant.name,
                asset=asset,
                description=f"{invariant.meaning} If it fails: {invariant.remedy}",
                blocking=invariant.severity is Severity.BLOCKING,
                partitions_def=partitions_def,
                automation_condition=automation_condition,
            )
            for invariant in invariants
        ]


def check_result(finding: Finding) -> dg.AssetCheckResult:
    """Return a finding as a check result; its numbers, also those in `details`, become metadata that Dagster plots."""
    metadata: dict[str, Any] = {**numbers(finding.details), "was_checked": finding.was_checked}
    if finding.observed is not None:
        metadata["observed"] = float(finding.observed)
    if finding.allowed is not None:
        metadata["allowed"] = float(finding.allowed)
    if finding.details:
        metadata["details"] = dg.MetadataValue.json(finding.details)
    if finding.remedy and not finding.passed:
        metadata["remedy"] = finding.remedy
    return dg.AssetCheckResult(
        check_name=finding.name,
        passed=finding.passed,
        severity=SEVERITIES[finding.severity],
        description=finding.message if finding.was_checked else f"not checked: {finding.message}",
        metadata=metadata,
    )


def check_results(findings: Iterable[Finding], invariants: Iterable[Invariant]) -> Iterator[dg.AssetCheckResult]:
    """Yield every finding as a check result.

    Raises:
        Failure: If no blocking check failed and the finding of an invariant is missing.
    """
    findings = list(findings)
    yield from map(check_result, findings)
    missing = {invariant.name for invariant in invariants} - {finding.name for finding in findings}
    if missing and not blocking_failures(findings):
        raise dg.Failure(f"These checks did not run: {', '.join(sorted(missing))}.", allow_retries=False)


@contextmanager
def lvm_errors_as_failures() -> Iterator[None]:
    try:
        yield
    except LvmError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
