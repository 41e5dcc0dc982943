"""State of the Dagster instance: schema of its storage, heartbeats of its daemons, enabled schedules and sensors."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from lvm_pipeline.defs.dagster_internals import InstigatorStatus
from lvm_pipeline.defs.launch import open_instance
from lvm_pipeline.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DagsterHealth:
    """Schema found and schema required, daemons without a recent heartbeat, enabled schedules and sensors."""

    version: str
    schema: str | None
    wanted_schema: str | None
    num_runs: int
    last_heartbeat: datetime | None
    silent_daemons: tuple[str, ...]
    switched_on: tuple[str, ...]


def dagster_health(settings: Settings) -> DagsterHealth:
    """Read the state of the instance in `LVM_HOME`."""
    with open_instance(settings) as instance:
        schema, wanted = instance.event_log_storage.alembic_version() or (None, None)
        assert not isinstance(wanted, tuple), "Dagster's migrations have one head"
        last_beats = {
            name: status.last_heartbeat.timestamp if status.last_heartbeat else 0.0
            for name, status in instance.get_daemon_statuses().items()
        }
        last_beat = max(last_beats.values(), default=0.0)
        earliest = time.time() - settings.daemon_silence_seconds
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
