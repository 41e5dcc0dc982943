"""cpe_entry -> concepts: the ordered concept table."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import COLUMN_MEANINGS
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, check_specs, told_as_failure
from lvm_pipeline.defs.cpe_entry import cpe_entry
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.findings import Severity
from lvm_pipeline.settings import Settings

INVARIANTS = {
    "order_is_unambiguous": Severity.BLOCKING,
    "articles_are_contiguous": Severity.BLOCKING,
    "positions_have_no_gap": Severity.BLOCKING,
    "every_concept_has_a_vector": Severity.BLOCKING,
    "vectors_are_finite_and_of_one_width": Severity.BLOCKING,
    "vectors_match_their_space": Severity.BLOCKING,
    "cpe_ids_are_unique": Severity.BLOCKING,
    "no_duplicate_concepts": Severity.BLOCKING,
    "texts_are_not_empty": Severity.BLOCKING,
    "tmd_codes_are_assigned": Severity.WARNING,
    "tmd_packing_is_known": Severity.WARNING,
    "articles_are_long_enough": Severity.WARNING,
}


@dg.asset(
    deps=[cpe_entry],
    check_specs=check_specs("concepts", INVARIANTS),
    group_name="data",
    kinds={"postgres", "parquet"},
)
def concepts(settings: dg.ResourceParam[Settings]) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Ordered concepts, one row each, sorted by article then position (Parquet)."""
    with told_as_failure(), stage_shown(settings, "concepts") as progress:
        staged = lineage.stage_concepts(settings, progress=progress.count)
        yield from check_results(staged.findings, INVARIANTS)
        promoted = lineage.promote_concepts(settings, staged)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(promoted.fingerprint),
            metadata={
                **metadata.parquet_metadata(settings.concepts_path, COLUMN_MEANINGS),
                **metadata.numbers(promoted.as_json()),
                "num_dropped": len(promoted.dropped),
                "space_id": promoted.space_id,
                "dataset_source": promoted.dataset_source,
                "order_key": promoted.order_key,
                "fingerprint": promoted.fingerprint,
            },
        )
