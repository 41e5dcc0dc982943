"""Record the findings of `lvm verify --products` as asset check results, for alerts and automation."""

from collections.abc import Iterable

import dagster as dg

from lvm_pipeline.defs.checks import check_result
from lvm_pipeline.defs.launch import open_instance
from lvm_pipeline.defs.partitions import ENSEMBLE, architecture_partitions
from lvm_pipeline.findings import Finding
from lvm_pipeline.lineage import INVARIANTS, ProductVerification, read_champion
from lvm_pipeline.settings import Settings


def record_verification(settings: Settings, verification: ProductVerification) -> None:
    """Record the findings in the Dagster instance of the home; do nothing if Dagster was never used there."""
    if not (settings.dagster_dir / "dagster.yaml").is_file():
        return
    names = {asset: {each.name for each in INVARIANTS[asset]} for asset in ("concepts", "sequences")}
    with open_instance(settings) as instance:
        for asset, of_asset in names.items():
            _record(instance, asset, [each for each in verification.tables.findings if each.name in of_asset])
        _record(instance, "concepts", verification.drift)
        architecture = read_champion(settings).get("architecture")
        if architecture == ENSEMBLE:
            _record(instance, ENSEMBLE, verification.model)
        elif architecture is not None and architecture_partitions.has_partition_key(architecture):
            _record(instance, "trained_model", verification.model, partition=architecture)


def _record(
    instance: dg.DagsterInstance, asset: str, findings: Iterable[Finding], *, partition: str | None = None
) -> None:
    for result in (check_result(finding) for finding in findings if finding.was_checked):
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(asset),
                check_name=result.check_name or "",
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
                partition=partition,
            )
        )
