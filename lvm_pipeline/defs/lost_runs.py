"""Mark runs whose process died with the code server or with Postgres as failed, and free their slots in the pools.

    python -m lvm_pipeline.defs.lost_runs

`lvm ui` starts it after a restart, docker-compose.yml with every code server; the environment names the instance
(DAGSTER_HOME). Dagster's own monitoring does not notice such runs: they would stay STARTED and keep their slot.
"""

import json
import time
from collections.abc import Callable

import dagster as dg

from lvm_pipeline.adapters import databases, postgres_facts
from lvm_pipeline.defs.dagster_internals import (
    GRPC_INFO_TAG,
    CanCancelExecutionRequest,
    CanCancelExecutionResult,
    DagsterGrpcClient,
    DagsterUserCodeUnreachableError,
    deserialize_value,
)
from lvm_pipeline.settings import load_settings

PATIENCE_SECONDS = 300.0  # for a code server that starts
REASON = (
    "The process of this run died, because the code server or Postgres was stopped. Both are running again; launch "
    "this run again. A training resumes from its checkpoint."
)


def main() -> None:
    url = databases.dagster_url(load_settings()).replace("+psycopg2", "", 1)
    if not postgres_facts.has_table(url, "runs"):
        return  # the web server creates the tables, which two processes must not do at once
    with dg.DagsterInstance.get() as instance:
        fail_lost_runs(instance, is_executed=is_executed)


def fail_lost_runs(instance: dg.DagsterInstance, *, is_executed: Callable[[dg.DagsterRun], bool]) -> list[str]:
    """Mark unfinished runs of code servers as failed that no code server executes; return their ids."""
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)) if GRPC_INFO_TAG in run.tags]
    lost = [run for run in runs if not is_executed(run)]
    for run in lost:
        instance.report_run_failed(run, REASON)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in lost]


def is_executed(run: dg.DagsterRun) -> bool:
    """Whether the code server that was given a run executes it; waits for one that starts."""
    address = json.loads(run.tags[GRPC_INFO_TAG])
    client = DagsterGrpcClient(port=address.get("port"), socket=address.get("socket"), host=address["host"])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=10)
        except DagsterUserCodeUnreachableError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        else:
            return deserialize_value(answer, CanCancelExecutionResult).can_cancel


if __name__ == "__main__":
    main()
