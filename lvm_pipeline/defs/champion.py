"""leaderboard -> champion: the MLflow alias `champion`, from which `lvm serve` and `lvm predict` load the model."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.defs.ensemble import ensemble
from lvm_pipeline.defs.leaderboard import leaderboard
from lvm_pipeline.defs.partitions import RESULTS_POOL
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.settings import Settings


@dg.asset(deps=[leaderboard, ensemble], pool=RESULTS_POOL, group_name="results", kinds={"mlflow"})
def champion(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The registered model that is best by the promotion rule, and the reason for the last decision."""
    with lvm_errors_as_failures(), stage_shown(settings, "champion"):
        chosen = lineage.choose_champion(settings)
    decision = chosen["decision"]
    links = {} if chosen["url"] is None else {"registered_model": dg.MetadataValue.url(chosen["url"])}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(chosen["model_fingerprint"] or "none"),
        metadata={
            metadata.VERDICT: decision["reason"],
            **metadata.page(settings, settings.reports_dir / "leaderboard.html"),
            **links,
            "is_promoted": decision["promote"],
            "champion": chosen["name"] or "none",
            "champion_before": chosen["before"] or "none",
            "challenger": decision["challenger"],
            **metadata.numbers({"challenger_cosine": decision["cosine"], **_named(decision["gain"], "gain")}),
            **metadata.numbers(_named(chosen["test"], "test")),
        },
    )


def _named(values: Mapping[str, Any] | None, prefix: str) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in (values or {}).items()}
