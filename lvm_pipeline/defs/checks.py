"""Findings become asset checks.

Every asset names the invariants of its product, so that Dagster knows them before anything ran. A finding fails its
check with its own severity: blocking ones stop everything downstream. A product is promoted after its findings
are known, so where a blocking check fails nothing is materialised and the earlier product stays.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from lvm_pipeline.defs.metadata import numbers
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, Severity, blocking_failures
from lvm_pipeline.runbook import in_words

SEVERITIES = {Severity.BLOCKING: dg.AssetCheckSeverity.ERROR, Severity.WARNING: dg.AssetCheckSeverity.WARN}


def check_specs(
    asset: str,
    invariants: Mapping[str, Severity],
    *,
    partitions_def: dg.PartitionsDefinition | None = None,
    automation_condition: dg.AutomationCondition | None = None,
) -> list[dg.AssetCheckSpec]:
    """Declare an asset's invariants as checks."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", dg.PreviewWarning
        )  # checks of one partition, which Dagster still calls a preview
        return [
            dg.AssetCheckSpec(
                name,
                asset=asset,
                description=in_words(name),
                blocking=severity is Severity.BLOCKING,
                partitions_def=partitions_def,
                automation_condition=automation_condition,
            )
            for name, severity in invariants.items()
        ]


def check_result(finding: Finding) -> dg.AssetCheckResult:
    """Return a finding as a check result; its numbers, in `details` too, become metadata, which Dagster plots."""
    metadata: dict[str, Any] = {**numbers(finding.details), "was_checked": finding.was_checked}
    if finding.observed is not None:
        metadata["observed"] = float(finding.observed)
    if finding.allowed is not None:
        metadata["allowed"] = float(finding.allowed)
    if finding.details:
        metadata["details"] = dg.MetadataValue.json(finding.details)
    return dg.AssetCheckResult(
        check_name=finding.name,
        passed=finding.passed,
        severity=SEVERITIES[finding.severity],
        description=finding.message if finding.was_checked else f"not checked: {finding.message}",
        metadata=metadata,
    )


def check_results(findings: Iterable[Finding], invariants: Mapping[str, Severity]) -> Iterator[dg.AssetCheckResult]:
    """Yield every finding as a check result; the promotion that follows is what stops a product with a blocking one.

    Raises:
        Failure: If nothing blocks and yet a declared invariant was not looked at.
    """
    findings = list(findings)
    yield from map(check_result, findings)
    missing = invariants.keys() - {finding.name for finding in findings}
    if missing and not blocking_failures(findings):
        raise dg.Failure(f"Nobody looked at {', '.join(sorted(missing))}.", allow_retries=False)


@contextmanager
def told_as_failure() -> Iterator[None]:
    """Let an error that is meant for a person be the failure of the step, as its sentence alone.

    Raises:
        Failure: In place of an `LvmError`.
    """
    try:
        yield
    except LvmError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
