"""Observable source asset: the table of concepts in Postgres."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # observable assets are a beta feature

    @dg.multi_observable_source_asset(
        specs=[
            dg.AssetSpec(
                "cpe_entry",
                group_name="data",
                kinds={"postgres"},
                description="Postgres table of concepts with their vectors (cpe_entry, cpe_vectors).",
            )
        ]
    )
    def cpe_entry(settings: dg.ResourceParam[Settings]) -> Iterator[dg.ObserveResult]:
        """Observe the table; its data version is a hash of counts, newest row and content."""
        with lvm_errors_as_failures():
            source = lineage.observe_source(settings)
        yield dg.ObserveResult(data_version=dg.DataVersion(source.data_version), metadata=asdict(source))
