"""What Dagster loads, in the order in which data flows through it."""

import dagster as dg

from lvm_pipeline.defs.automation import automated, automation_sensor
from lvm_pipeline.defs.champion import champion
from lvm_pipeline.defs.concepts import concepts
from lvm_pipeline.defs.cpe_entry import cpe_entry
from lvm_pipeline.defs.drift import drift
from lvm_pipeline.defs.ensemble import ensemble
from lvm_pipeline.defs.evaluation_report import evaluation_report
from lvm_pipeline.defs.jobs import (
    choose_champion,
    combine_best,
    refresh_data,
    train_architecture,
    verify_data,
    verify_ensemble,
    verify_model,
)
from lvm_pipeline.defs.launchers import Launcher
from lvm_pipeline.defs.leaderboard import leaderboard
from lvm_pipeline.defs.resources import no_io_manager, settings_resource
from lvm_pipeline.defs.schedules import retraining, verifications
from lvm_pipeline.defs.sensors import alerts_sensor
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.defs.text_decoder import text_decoder
from lvm_pipeline.defs.trained_model import trained_model
from lvm_pipeline.defs.trial import plan_jobs, trial
from lvm_pipeline.settings import load_settings


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions; their schedules and conditions follow the settings of the moment."""
    settings = load_settings()
    data = [cpe_entry, concepts, sequences]
    lineage = [*data, text_decoder, trained_model, evaluation_report, leaderboard, ensemble, champion, trial]
    return dg.Definitions(
        assets=automated(lineage, settings),
        asset_checks=[drift],
        jobs=[
            *(refresh_data, verify_data, verify_model, verify_ensemble),
            *(train_architecture, combine_best, choose_champion, *plan_jobs),
        ],
        schedules=[retraining(settings), *verifications(settings)],
        sensors=[automation_sensor(settings), alerts_sensor(settings)],
        resources={"settings": settings_resource, "launcher": Launcher(), "io_manager": no_io_manager},
        executor=dg.in_process_executor,  # trainings run in child processes
    )
