"""Asset checks that compare the concepts with those the champion was trained on. They never block."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.automation import when_its_input_changed
from lvm_pipeline.defs.checks import check_results, check_specs, lvm_errors_as_failures
from lvm_pipeline.settings import Settings


@dg.multi_asset_check(
    name="drift",
    specs=check_specs("concepts", lineage.INVARIANTS["drift"], automation_condition=when_its_input_changed()),
    description="Compares the concepts with those the champion was trained on.",
    can_subset=True,
)
def drift(
    context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult]:
    """Compare the promoted concepts with the champion's."""
    with lvm_errors_as_failures():
        found, report_path = lineage.check_drift(settings)
        for reason in {finding.message for finding in found.findings if not finding.was_checked}:
            context.log.info(f"Not checked: {reason}.")
        yield from check_results(
            found.findings, lineage.INVARIANTS["drift"], context=context, report=settings.page_url(report_path)
        )
