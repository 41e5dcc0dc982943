"""trained_model -> evaluation_report: scores beside the baselines, with intervals, for one architecture."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, check_specs, told_as_failure
from lvm_pipeline.defs.partitions import architecture_partitions
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.trained_model import trained_model
from lvm_pipeline.findings import Finding, Severity
from lvm_pipeline.settings import Settings

INVARIANTS = {
    "pool_is_declared_and_clean": Severity.BLOCKING,
    "beats_best_baseline": Severity.WARNING,
}


@dg.asset(
    deps=[trained_model],
    partitions_def=architecture_partitions,
    check_specs=check_specs("evaluation_report", INVARIANTS, partitions_def=architecture_partitions),
    group_name="results",
    kinds={"pytorch", "html"},
)
def evaluation_report(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Metrics of one trained model on the validation split (JSON and HTML)."""
    architecture = context.partition_key
    with told_as_failure(), stage_shown(settings, "evaluation_report", architecture):
        report = lineage.evaluate_architecture(settings, architecture)
        yield from check_results([Finding.from_json(values) for values in report["findings"]], INVARIANTS)
        yield dg.MaterializeResult(metadata={**metadata.numbers(report)})
