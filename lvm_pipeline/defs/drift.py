"""Checks on concepts that hold them against those that the champion was trained on; they warn and never block."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.automation import when_its_input_changed
from lvm_pipeline.defs.checks import check_results, check_specs, told_as_failure
from lvm_pipeline.findings import Severity
from lvm_pipeline.settings import Settings

INVARIANTS = {
    "num_concepts_is_as_before": Severity.WARNING,
    "article_lengths_are_as_before": Severity.WARNING,
    "mean_vector_is_as_before": Severity.WARNING,
    "vector_dimensions_are_as_before": Severity.WARNING,
    "vectors_cannot_be_told_apart": Severity.WARNING,
    "tmd_mix_is_as_before": Severity.WARNING,
}


@dg.multi_asset_check(
    name="drift",
    specs=check_specs("concepts", INVARIANTS, automation_condition=when_its_input_changed()),
    description="Are the concepts still like those that the champion was trained on? Limits: permuted articles.",
)
def drift(settings: dg.ResourceParam[Settings]) -> Iterator[dg.AssetCheckResult]:
    """Compare the concepts just promoted with the champion's."""
    with told_as_failure():
        found, _ = lineage.check_drift(settings)
        yield from check_results(found.findings, INVARIANTS)
