"""concepts -> sequences: contexts with their targets, split by article."""

from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, checked_asset, is_made, lvm_errors_as_failures, not_checked
from lvm_pipeline.defs.concepts import concepts
from lvm_pipeline.defs.partitions import DATA_POOL
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.sequences.schema import COLUMN_MEANINGS
from lvm_pipeline.settings import Settings

INVARIANTS = lineage.INVARIANTS["sequences"]


@checked_asset(INVARIANTS, deps=[concepts], group_name="data", kinds={"parquet"}, pool=DATA_POOL)
def sequences(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Context and target rows of every sequence, each article in one split (Parquet)."""
    with lvm_errors_as_failures(), stage_shown(settings, "sequences"):
        if not is_made(context):
            yield from check_results(lineage.check_sequences_product(settings), INVARIANTS, context=context)
            return
        with lineage.data_locked(settings):
            staged = lineage.stage_sequences(settings)
            yield from check_results(staged.findings, INVARIANTS, context=context)
            promoted = lineage.promote_sequences(settings, staged)
            counts = [{"split": split, **asdict(of_split)} for split, of_split in promoted.split_counts.items()]
            yield dg.MaterializeResult(
                data_version=dg.DataVersion(promoted.fingerprint),
                metadata={
                    metadata.VERDICT: ", ".join(f"{each['num_sequences']:,} {each['split']}" for each in counts)
                    + " sequences.",
                    **metadata.parquet_metadata(settings.sequences_path, COLUMN_MEANINGS),
                    metadata.ROW_COUNT: promoted.num_sequences,  # articles alone are rows, too
                    **metadata.numbers(promoted.as_json()),
                    "not_checked": not_checked(staged.findings),
                    "splits": metadata.markdown_table(counts),
                    "split_rule": promoted.split_rule,
                    "boundaries": promoted.boundaries,
                    "is_leaking": promoted.is_leaking,
                    "fingerprint": promoted.fingerprint,
                    "concepts_fingerprint": promoted.concepts_fingerprint,
                },
            )
