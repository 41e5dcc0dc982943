"""leaderboard -> champion: the MLflow alias that everybody else loads."""

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.checks import told_as_failure
from lvm_pipeline.defs.leaderboard import leaderboard
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.settings import Settings


@dg.asset(deps=[leaderboard], group_name="results", kinds={"mlflow"})
def champion(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """The registered model now best by the fixed rule, or the reason why nothing changed."""
    with told_as_failure(), stage_shown(settings, "champion"):
        lineage.choose_champion(settings)
    return dg.MaterializeResult()
