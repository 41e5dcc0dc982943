"""How Dagster itself is: its storage's schema, its daemon's heartbeat, and what waits for that daemon."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus

from lvm_pipeline.defs.launch import open_instance
from lvm_pipeline.settings import Settings

SILENT_SECONDS = 180  # a daemon beats every 30 s; Dagster itself calls it healthy for half an hour


@dataclass(frozen=True, kw_only=True)
class DagsterHealth:
    """The schema found and the one this Dagster wants; silent daemons; schedules and sensors that are switched on."""

    version: str
    schema: str | None
    wanted_schema: str | None
    num_runs: int
    last_heartbeat: datetime | None
    silent_daemons: tuple[str, ...]
    switched_on: tuple[str, ...]


def dagster_health(settings: Settings) -> DagsterHealth:
    """Ask the instance of the settings' home."""
    with open_instance(settings) as instance:
        schema, wanted = instance.event_log_storage.alembic_version() or (None, None)
        assert not isinstance(wanted, tuple), "Dagster's migrations have one head"
        last_beats = {
            name: status.last_heartbeat.timestamp if status.last_heartbeat else 0.0
            for name, status in instance.get_daemon_statuses().items()
        }
        last_beat = max(last_beats.values(), default=0.0)
        earliest = time.time() - SILENT_SECONDS
        states = instance.all_instigator_state(
            instigator_statuses={InstigatorStatus.RUNNING}
        )  # by a person, not by code
        return DagsterHealth(
            version=dg.__version__,
            schema=schema,
            wanted_schema=wanted,
            num_runs=instance.get_runs_count(),
            last_heartbeat=datetime.fromtimestamp(last_beat, UTC) if last_beat else None,
            silent_daemons=tuple(sorted(name for name, beat in last_beats.items() if beat < earliest)),
            switched_on=tuple(sorted(state.instigator_name for state in states)),
        )
