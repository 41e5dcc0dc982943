"""What runs by the clock."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.defs.jobs import train_architecture
from lvm_pipeline.settings import Settings, load_settings


def retraining(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule that trains again what `LVM_RETRAINED_ARCHITECTURES` names; runs until somebody stops it."""

    @dg.schedule(
        name="retraining",
        job=train_architecture,
        cron_schedule=settings.retraining_cron,
        execution_timezone="UTC",
        description="Trains again, on the present data, what LVM_RETRAINED_ARCHITECTURES names: the champion's "
        "architecture, all, or some. Every run ends with a leaderboard and a champion.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def retrain(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        with lvm_errors_as_failures():
            architectures = lineage.retrained_architectures(load_settings())
        if not architectures:
            yield dg.SkipReason("There is no champion yet, whose architecture could be trained again.")
        moment = context.scheduled_execution_time.isoformat(timespec="minutes")
        for architecture in architectures:  # the pool `gpu` lets them queue
            yield dg.RunRequest(run_key=f"{moment} {architecture}", partition_key=architecture)

    return retrain
