"""cpe_entry -> concepts: the ordered concept table."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import COLUMN_MEANINGS
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, checked_asset, is_made, lvm_errors_as_failures, not_checked
from lvm_pipeline.defs.cpe_entry import cpe_entry
from lvm_pipeline.defs.partitions import DATA_POOL
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.settings import Settings
from lvm_pipeline.words import counted

INVARIANTS = lineage.INVARIANTS["concepts"]


@checked_asset(INVARIANTS, deps=[cpe_entry], group_name="data", kinds={"postgres", "parquet"}, pool=DATA_POOL)
def concepts(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Ordered concepts, one row each, sorted by article then position (Parquet)."""
    with lvm_errors_as_failures(), stage_shown(settings, "concepts") as progress:
        if not is_made(context):
            yield from check_results(lineage.check_concepts_product(settings), INVARIANTS, context=context)
            return
        with lineage.data_locked(settings):
            staged = lineage.stage_concepts(settings, progress=progress.count)
            yield from check_results(staged.findings, INVARIANTS, context=context)
            promoted = lineage.promote_concepts(settings, staged)
            yield dg.MaterializeResult(
                data_version=dg.DataVersion(promoted.fingerprint),
                metadata={
                    metadata.VERDICT: f"{counted(promoted.num_concepts, 'concept')} "
                    f"in {counted(promoted.num_articles, 'article')} of "
                    f"{promoted.dataset_source}; {counted(len(promoted.dropped), 'duplicate')} dropped.",
                    **metadata.parquet_metadata(settings.concepts_path, COLUMN_MEANINGS),
                    **metadata.numbers(promoted.as_json()),
                    "num_dropped": len(promoted.dropped),
                    "num_articles_kept": staged.num_articles_kept,
                    "num_articles_read": staged.num_articles_read,
                    "not_checked": not_checked(staged.findings),
                    "space_id": promoted.space_id,
                    "dataset_source": promoted.dataset_source,
                    "order_key": promoted.order_key,
                    "fingerprint": promoted.fingerprint,
                },
            )
