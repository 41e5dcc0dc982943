"""Materialise the whole lineage from a command: real Dagster runs in this process, without web server or daemon.

The runs, checks and materialisations are in the instance of `LVM_HOME/dagster`, so the UI shows them later. The run of
a command that is killed stays unfinished and keeps its slot in the pool `gpu`. So each run is tagged with its process,
and the next command marks the runs of dead processes as failed.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import dagster as dg

from lvm_pipeline.adapters import processes
from lvm_pipeline.adapters.dagster_home import dagster_environment
from lvm_pipeline.defs.dagster_internals import InstanceRef, NoOpComputeLogManager
from lvm_pipeline.defs.progress import OnProgress, watched
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, settings_environment

DATA = ("cpe_entry", "concepts", "sequences")
MODEL = ("trained_model", "evaluation_report")
CHOICE = ("leaderboard", "champion")  # once at the end, and not in each architecture's run
PROCESS_TAG = "lvm/process"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# Dagster would send what steps print through files and a second process for each step; here it stays on the terminal.
NO_COMPUTE_LOGS = {
    "compute_logs": {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}
}


@dataclass(frozen=True, kw_only=True)
class LaunchedRun:
    """A Dagster run that succeeded."""

    dagster_run_id: str
    assets: tuple[str, ...]
    partition: str | None = None


def materialise_lineage(
    settings: Settings,
    architectures: Sequence[str],
    *,
    on_progress: OnProgress | None = None,
    before_training: Callable[[], None] | None = None,
    before_choice: Callable[[], None] | None = None,
) -> list[LaunchedRun]:
    """Materialise everything from the source table to the champion; return the Dagster runs, all successful.

    Args:
        architectures: Partitions of `trained_model` and `evaluation_report`.
        on_progress: Called from another thread when the progress of a stage changes.
        before_training: Called when the data are promoted.
        before_choice: Called when all architectures are scored, before leaderboard and champion.

    Raises:
        LvmError: If an asset fails; what was materialised before stays.
    """
    from lvm_pipeline.definitions import defs

    with open_instance(settings) as instance, watched(settings, on_progress):
        end_abandoned_runs(instance)
        run = partial(_run, instance, defs())
        runs = [run("refresh_data", DATA)]
        if before_training is not None:
            before_training()
        runs += [run("train_architecture", MODEL, partition=architecture) for architecture in architectures]
        if before_choice is not None:
            before_choice()
        return [*runs, run("choose_champion", CHOICE)]


def refresh_data(settings: Settings) -> LaunchedRun:
    """Materialise the source table, concepts and sequences. Raises LvmError if an asset fails."""
    from lvm_pipeline.definitions import defs

    with open_instance(settings) as instance:
        end_abandoned_runs(instance)
        return _run(instance, defs(), "refresh_data", DATA)


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Open the instance of the settings' home, with the environment variables of these settings."""
    with environment({**dagster_environment(settings), **settings_environment(settings)}):
        reference = InstanceRef.from_dir(str(settings.dagster_dir), overrides=NO_COMPUTE_LOGS)
        with dg.DagsterInstance.from_ref(reference) as instance:
            yield instance


def all_checks() -> list[dg.AssetCheckKey]:
    from lvm_pipeline.definitions import defs

    return sorted(defs().resolve_asset_graph().asset_check_keys)


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this module as failed whose process is gone, and free their slots in the pools."""
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    abandoned = [run for run in instance.get_runs(unfinished) if _is_abandoned(run.tags.get(PROCESS_TAG))]
    for run in abandoned:
        instance.report_run_failed(run, "The command that executed this run has exited.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in abandoned]


def _run(
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    job_name: str,
    assets: tuple[str, ...],
    *,
    partition: str | None = None,
) -> LaunchedRun:
    result = definitions.resolve_job_def(job_name).execute_in_process(
        instance=instance,
        run_config=QUIET,
        partition_key=partition,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags={PROCESS_TAG: _own_process()},
        raise_on_error=False,
    )
    if not result.success:
        raise LvmError(_reason(result))
    return LaunchedRun(dagster_run_id=result.run_id, assets=assets, partition=partition)


def _reason(result: dg.ExecuteInProcessResult) -> str:
    """Return the sentence of the first failed step."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return data.user_failure_data.description
            return f"{event.step_key}: {data.error_display_string.strip()}"
    return "The Dagster run failed without a failed step."


def _own_process() -> str:
    pid = os.getpid()
    return f"{socket.gethostname()} {pid} {processes.start_of(pid)}"


def _is_abandoned(process: str | None) -> bool:
    if process is None:
        return False
    host, pid, start = process.split(" ")
    return processes.has_ended(host=host, pid=int(pid), start=start)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
