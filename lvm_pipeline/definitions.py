"""The one object that Dagster loads, in the order in which data flows through it."""

import dagster as dg

from lvm_pipeline.defs.champion import champion
from lvm_pipeline.defs.concepts import concepts
from lvm_pipeline.defs.cpe_entry import cpe_entry
from lvm_pipeline.defs.evaluation_report import evaluation_report
from lvm_pipeline.defs.jobs import crown_champion, refresh_data, train_architecture
from lvm_pipeline.defs.leaderboard import leaderboard
from lvm_pipeline.defs.resources import settings_resource
from lvm_pipeline.defs.schedules import weekly_retraining
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.defs.trained_model import trained_model

defs = dg.Definitions(
    assets=[cpe_entry, concepts, sequences, trained_model, evaluation_report, leaderboard, champion],
    jobs=[refresh_data, train_architecture, crown_champion],
    schedules=[weekly_retraining],
    resources={"settings": settings_resource},
    executor=dg.in_process_executor,  # what weighs runs in a child process of its own
)
