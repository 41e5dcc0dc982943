"""Jobs: refresh or verify the data, train one architecture up to the champion, combine, choose."""

import dagster as dg

from lvm_pipeline.defs.champion import champion
from lvm_pipeline.defs.concepts import concepts
from lvm_pipeline.defs.cpe_entry import cpe_entry
from lvm_pipeline.defs.ensemble import ensemble
from lvm_pipeline.defs.evaluation_report import evaluation_report
from lvm_pipeline.defs.leaderboard import leaderboard
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.defs.trained_model import trained_model

refresh_data = dg.define_asset_job(
    "refresh_data",
    selection=[cpe_entry.key, concepts.key, sequences.key],
    description="Observe the source table, extract its concepts and cut them into sequences.",
)

verify_data = dg.define_asset_job(
    "verify_data",
    selection=dg.AssetSelection.checks_for_assets(concepts, sequences),
    description="Check the promoted concepts and sequences, and drift, without rebuilding them.",
)

verify_model = dg.define_asset_job(
    "verify_model",
    selection=dg.AssetSelection.checks_for_assets(trained_model),
    description="Check the latest trained model of an architecture without training it again.",
)

verify_ensemble = dg.define_asset_job(
    "verify_ensemble",
    selection=dg.AssetSelection.checks_for_assets(ensemble),
    description="Check the latest ensemble without rebuilding it.",
)

train_architecture = dg.define_asset_job(
    "train_architecture",
    selection=[trained_model.key, evaluation_report.key, leaderboard.key, champion.key],
    description="Train and score one architecture, then compare all: every run ends with a leaderboard and a champion.",
)

combine_best = dg.define_asset_job(
    "combine_best",
    selection=[ensemble.key, champion.key],
    description="Combine the best trials into an ensemble, score it and compare it with the champion.",
)

choose_champion = dg.define_asset_job(
    "choose_champion",
    selection=[leaderboard.key, champion.key],
    description="Compare the existing reports and choose the champion.",
)
