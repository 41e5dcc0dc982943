"""evaluation_report -> leaderboard: all architectures beside the baselines, on the same rows."""

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.checks import told_as_failure
from lvm_pipeline.defs.evaluation_report import evaluation_report
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.settings import Settings


@dg.asset(deps=[evaluation_report], group_name="results", kinds={"html"})
def leaderboard(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Every architecture that has a report on the present sequences, and the baselines (JSON and HTML)."""
    with told_as_failure(), stage_shown(settings, "leaderboard"):
        lineage.build_leaderboard(settings)
    return dg.MaterializeResult()
