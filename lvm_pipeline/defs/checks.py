"""Turn invariants into asset check specs, and findings into check results.

The severity of a finding is the severity of its check result. Products are promoted after their checks: if a blocking
check fails, nothing is materialised and the earlier product stays.
"""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.adapters.limits import limit_met
from lvm_pipeline.defs.metadata import markdown_list, numbers
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, Invariant, Severity, blocking_failures
from lvm_pipeline.lineage.trials import TrialFolder, trial_folder
from lvm_pipeline.settings import Settings

CHECKED_TRIAL_TAG = "lvm/checked_trial"  # the trial whose model a run of checks alone is about
STEP_LOGGER = "dagster._core.execution.plan.active"
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


def check_result(finding: Finding, *, report: str | None = None) -> dg.AssetCheckResult:
    """Return a finding as a check result; its numbers, also those in `details`, become metadata that Dagster plots.

    `report` is the address of the report with more about it; alerts link there too.
    """
    assert finding.was_checked, "a check that did not run has no result"
    metadata: dict[str, Any] = {**numbers(finding.details)}
    if finding.observed is not None:
        metadata["observed"] = float(finding.observed)
    if finding.allowed is not None:
        metadata["allowed"] = float(finding.allowed)
    if finding.details:
        metadata["details"] = dg.MetadataValue.json(finding.details)
    if finding.remedy and not finding.passed:
        metadata["remedy"] = finding.remedy
    if report is not None:
        metadata["report"] = dg.MetadataValue.url(report)
    return dg.AssetCheckResult(
        check_name=finding.name,
        passed=finding.passed,
        severity=SEVERITIES[finding.severity],
        description=finding.message,
        metadata=metadata,
    )


def check_results(
    findings: Iterable[Finding],
    invariants: Iterable[Invariant],
    *,
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | None = None,
    report: str | None = None,
) -> Iterator[dg.AssetCheckResult]:
    """Yield a check result for each finding of a check that ran; a check that could not run has no result.

    With a context, only for the checks that its run selects.

    Raises:
        Failure: If no blocking check failed and the finding of an invariant is missing.
    """
    findings = list(findings)
    logging.getLogger(STEP_LOGGER).addFilter(without_absent_results)
    selected = None if context is None else {key.name for key in context.selected_asset_check_keys}
    yield from (
        check_result(finding, report=report)
        for finding in findings
        if finding.was_checked and (selected is None or finding.name in selected)
    )
    missing = {invariant.name for invariant in invariants} - {finding.name for finding in findings}
    if missing and not blocking_failures(findings):
        raise dg.Failure(f"These checks did not run: {', '.join(sorted(missing))}.", allow_retries=False)


def without_absent_results(record: logging.LogRecord) -> bool:
    """Drop Dagster's warning about a blocking check without a result: the asset's metadata gives the reason."""
    return "emitted no result" not in str(record.msg)


def checked_trial(context: dg.AssetExecutionContext, settings: Settings, architecture: str) -> TrialFolder:
    """Return the trial that a run of checks alone is about: the one of its tag, else the architecture's latest.

    The champion's comes with the model that was chosen, also if its trial was trained again since.

    Raises:
        LvmError: If no trial of the architecture was trained, or the champion's model is gone.
    """
    trial_id = context.run.tags.get(CHECKED_TRIAL_TAG)
    if trial_id is None:
        return lineage.latest_trial(settings, architecture)
    champions = lineage.champions_trial(settings)
    return champions if champions is not None and champions.trial_id == trial_id else trial_folder(settings, trial_id)


def is_made(context: dg.AssetExecutionContext) -> bool:
    """Whether a run materializes the asset, and does not only execute its checks."""
    return bool(context.selected_asset_keys)


def not_checked(findings: Iterable[Finding]) -> dg.MarkdownMetadataValue:
    """Return a list of the checks that could not run, with the reasons."""
    return markdown_list([f"{each.name}: {each.message}" for each in findings if not each.was_checked])


def checked_asset(
    asset_invariants: Iterable[Invariant],
    *,
    deps: Iterable[dg.AssetsDefinition],
    group_name: str,
    kinds: set[str],
    partitions_def: dg.PartitionsDefinition | None = None,
    pool: str | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Define an asset whose checks can also be executed alone; the function asks `is_made` which case it is."""

    def define(function: Callable[..., Any]) -> dg.AssetsDefinition:
        name = function.__name__
        spec = dg.AssetSpec(
            name, deps=list(deps), group_name=group_name, kinds=kinds, description=inspect.getdoc(function)
        )
        specs = check_specs(name, asset_invariants, partitions_def=partitions_def)
        return dg.multi_asset(
            name=name, specs=[spec], check_specs=specs, can_subset=True, partitions_def=partitions_def, pool=pool
        )(function)

    return define


@contextmanager
def lvm_errors_as_failures() -> Iterator[None]:
    """Convert LvmError, and the errors of `limit_met`, to dg.Failure, without a traceback."""
    try:
        yield
    except LvmError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except Exception as error:
        if (limit := limit_met(error)) is None:
            raise
        raise dg.Failure(str(limit), allow_retries=False) from error
