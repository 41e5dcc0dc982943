"""Schedules."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.defs.jobs import train_architecture
from lvm_pipeline.settings import Settings, load_settings

RETRAINING = "retraining"
RETRAINING_TAG = "lvm/retraining"  # the scheduled time, equal for all runs of one retraining
NUM_RUNS_TAG = "lvm/retraining_runs"  # how many runs the retraining has


def retraining(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule that retrains `LVM_RETRAINED_ARCHITECTURES`; it is on by default."""

    @dg.schedule(
        name=RETRAINING,
        job=train_architecture,
        cron_schedule=settings.retraining_cron,
        execution_timezone="UTC",
        description="Retrains the architectures in LVM_RETRAINED_ARCHITECTURES on the current data: the champion's, "
        "all, or a list. Every run updates the leaderboard and the champion.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def retrain(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        with lvm_errors_as_failures():
            architectures = lineage.retrained_architectures(load_settings())
        if not architectures:
            yield dg.SkipReason("There is no champion yet, so there is no architecture to retrain.")
        moment = context.scheduled_execution_time.isoformat(timespec="minutes")
        for architecture in architectures:  # the pool `gpu` lets them queue
            tags = {RETRAINING_TAG: moment, NUM_RUNS_TAG: str(len(architectures))}
            yield dg.RunRequest(run_key=f"{moment} {architecture}", partition_key=architecture, tags=tags)

    return retrain
