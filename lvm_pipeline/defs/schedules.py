"""What runs by itself; stopped until somebody starts it in the UI or with `dagster schedule start`."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline.defs.jobs import train_architecture
from lvm_pipeline.defs.partitions import architecture_partitions

SUNDAY_NIGHT = "0 3 * * 0"


@dg.schedule(
    job=train_architecture,
    cron_schedule=SUNDAY_NIGHT,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def weekly_retraining(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Train every architecture again on the present data; the pool `gpu` lets them queue."""
    week = context.scheduled_execution_time.date().isoformat()
    for architecture in architecture_partitions.get_partition_keys():
        yield dg.RunRequest(run_key=f"{week} {architecture}", partition_key=architecture)
