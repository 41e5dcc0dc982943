"""evaluation_report -> leaderboard: all architectures beside the baselines, on the same rows."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import told_as_failure
from lvm_pipeline.defs.evaluation_report import evaluation_report
from lvm_pipeline.defs.partitions import RESULTS_POOL
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.settings import Settings


@dg.asset(deps=[evaluation_report], pool=RESULTS_POOL, group_name="results", kinds={"html"})
def leaderboard(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Every architecture that has a report on the present sequences, and the baselines (JSON and HTML)."""
    with told_as_failure(), stage_shown(settings, "leaderboard"):
        board = lineage.build_leaderboard(settings)
    models = [row for row in board["rows"] if row["kind"] == "model"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(" ".join(sorted(row["model_fingerprint"][:16] for row in models))),
        metadata={
            metadata.ROW_COUNT: len(board["rows"]),
            "num_models": len(models),
            "best_cosine": max(row["cosine"] for row in models),
            "leaderboard": metadata.markdown_table(shown_rows(board)),
            "left_out": metadata.markdown_list([f"{each['name']}: {each['reason']}" for each in board["left_out"]]),
            "not_checked": metadata.markdown_list(
                sorted({sentence for row in models for sentence in row["not_checked"]})
            ),
            "is_leaking": board["is_leaking"],
            "fingerprint": board["fingerprint"],
            "page": dg.MetadataValue.path(settings.reports_dir / "leaderboard.html"),
        },
    )


def shown_rows(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return models and baselines as the leaderboard ranks them."""
    return [
        {
            "rank": row["rank"],
            "name": f"**{row['name']}**" if row["kind"] == "model" else row["name"],
            "cosine": row["cosine"],
            "gain over best baseline": row.get("gain_over_best_baseline", {}).get("mean"),
            "low": row.get("gain_over_best_baseline", {}).get("low"),
            "high": row.get("gain_over_best_baseline", {}).get("high"),
            "R@1": row["retrieval"]["r_at_1"],
            "MRR": row["retrieval"]["mrr"],
            "champion": "yes" if row.get("is_champion") else None,
        }
        for row in board["rows"]
    ]
