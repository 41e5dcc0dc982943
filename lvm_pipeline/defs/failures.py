"""Results of checks and runs, read from Dagster's storage (SQLite or Postgres) as alerts.

Every failed check, blocking or not, becomes an alert while its run is still in progress, and every passed one the end
of a failure. A failed run becomes an alert only if no failed check explains it; the alert names the checks that did not
run because their step failed first. Runs of a scheduled retraining are summed up in one message (`retraining_summary`).
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import dagster as dg

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.defs.dagster_internals import (
    AUTOMATION_CONDITION_TAG,
    PARTITION_NAME_TAG,
    SCHEDULE_NAME_TAG,
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from lvm_pipeline.defs.schedules import RETRAINING

MAX_EXECUTIONS = 100  # of one check, read in one query
ENDED = {AssetCheckExecutionRecordStatus.FAILED, AssetCheckExecutionRecordStatus.SUCCEEDED}
EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_START,
    dg.DagsterEventType.ENGINE_EVENT,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
}


def find_changes(
    instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], *, since: float, ui_address: str
) -> Iterator[Alert]:
    """Return the results of these checks and the runs that ended since a time (in seconds since 1970), each once.

    Ids do not change between calls. `ui_address` is that of the Dagster web UI, for the links.
    """
    moment = datetime.fromtimestamp(since, tz=UTC)
    retrainings = _retrainings(instance, moment)
    for check in sorted(checks):
        for record in _ended_since(instance, check, since):
            if was_checked(record):
                yield alert_of_check(record, ui_address, is_summed_up=record.run_id in retrainings)
    ended = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS], updated_after=moment)
    for record in instance.get_run_records(ended):
        if (record.end_time or 0.0) < since or record.dagster_run.run_id in retrainings:
            continue
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            yield _success_of_run(record, ui_address)
        elif not (story := read_story(instance, record.dagster_run.run_id)).is_explained:
            yield _alert_of_run(record, story, ui_address)


def _retrainings(instance: dg.DagsterInstance, moment: datetime) -> set[str]:
    """Return the ids of runs of a scheduled retraining that have ended since a moment, or go on (since any time)."""
    tags, running = {SCHEDULE_NAME_TAG: RETRAINING}, [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    filters = dg.RunsFilter(tags=tags, statuses=running), dg.RunsFilter(tags=tags, updated_after=moment)
    return {record.dagster_run.run_id for each in filters for record in instance.get_run_records(each)}


def executions(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> Iterator[AssetCheckExecutionRecord]:
    """Yield the executions of a check that have ended, of all partitions, newest first."""
    cursor = None
    while page := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=MAX_EXECUTIONS, cursor=cursor, status=ENDED
    ):
        yield from page
        cursor = page[-1].id


def _ended_since(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, since: float
) -> Iterator[AssetCheckExecutionRecord]:
    """Yield the executions of a check that ended since a time.

    Their order is that in which they were planned, so the search ends only after many that are older.
    """
    num_older = 0
    for record in executions(instance, check):
        if record.event is not None and record.event.timestamp >= since:
            num_older = 0
            yield record
        elif (num_older := num_older + 1) == MAX_EXECUTIONS:
            return


def was_checked(record: AssetCheckExecutionRecord) -> bool:
    """Whether the check ran; earlier versions also recorded checks that could not run, marked with this metadata."""
    if record.evaluation is None:
        return False
    value = record.evaluation.metadata.get("was_checked")
    return value is None or bool(value.value)


def alert_of_check(record: AssetCheckExecutionRecord, ui_address: str, *, is_summed_up: bool = False) -> Alert:
    """Return the result of a check as an alert; a pass is the end of a failure."""
    assert record.event is not None
    assert record.evaluation is not None
    asset, name = record.key.asset_key.to_user_string(), record.key.name
    passed, is_warning = record.evaluation.passed, record.evaluation.severity is dg.AssetCheckSeverity.WARN
    where = asset if record.partition is None else f"{asset} [{record.partition}]"
    page = urlencode({"view": "checks", "checkDetail": name})
    return Alert(
        alert_id=f"check execution {record.id}",
        happened_at=record.event.timestamp,
        title=f"{where}: {name} {'passes again' if passed else 'warns' if is_warning else 'failed'}",
        message=record.evaluation.description or f"The check {name} of {where} {'passes' if passed else 'failed'}.",
        remedy=_text(record.evaluation.metadata.get("remedy")),
        level="info" if passed else "warning" if is_warning else "failure",
        asset=asset,
        partition=record.partition,
        check=name,
        observed=_number(record.evaluation.metadata.get("observed")),
        allowed=_number(record.evaluation.metadata.get("allowed")),
        dagster_run_id=record.run_id or None,
        link=f"{ui_address}/assets/{quote(asset)}?{page}",
        report=_text(record.evaluation.metadata.get("report")),
        state=state_of_check(record),
        is_over=passed,
        repeat="if_worse",
        is_summed_up=is_summed_up,
    )


def state_of_check(record: AssetCheckExecutionRecord) -> str:
    """Return the name under which a check of a partition is remembered as failing, and is acknowledged."""
    name = f"{record.key.asset_key.to_user_string()}:{record.key.name}"
    return name if record.partition is None else f"{name} [{record.partition}]"


def _number(value: dg.MetadataValue | None) -> float | None:
    number = value.value if isinstance(value, dg.FloatMetadataValue | dg.IntMetadataValue) else None
    return None if number is None else float(number)


def _text(value: dg.MetadataValue | None) -> str | None:
    return value.value if isinstance(value, dg.TextMetadataValue | dg.UrlMetadataValue) else None


class Story(NamedTuple):
    """Why a run failed: errors of its failed steps, whether failed checks explain it, checks that did not run."""

    reasons: list[str]
    is_explained: bool
    unchecked: list[dg.AssetCheckKey]


def read_story(instance: dg.DagsterInstance, run_id: str) -> Story:
    events = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=EVENTS) if entry.dagster_event]
    failed_steps = [event for event in events if event.is_step_failure]
    planned = {
        event.asset_check_planned_data.asset_check_key
        for event in events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    }
    evaluations = [
        (event.step_key, event.asset_check_evaluation_data)
        for event in events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    stopped_by_checks = {
        step
        for step, evaluation in evaluations
        if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR
    }
    reasons = [_reason_of_step(event) for event in failed_steps if event.step_key not in stopped_by_checks]
    if not failed_steps:
        reasons = _reasons_of_run(events)
    return Story(
        reasons=reasons,
        is_explained=bool(failed_steps) and not reasons,
        unchecked=sorted(planned - {evaluation.asset_check_key for _, evaluation in evaluations}),
    )


def _reason_of_step(event: dg.DagsterEvent) -> str:
    """Return the error message of a failed step, without a traceback."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    words = error.message.strip().splitlines() if error is not None else []
    return f"{event.step_key}: {words[0] if words else 'it crashed'}"


def _reasons_of_run(events: Iterable[dg.DagsterEvent]) -> list[str]:
    """Return why a run without a failed step failed; one that could not be started has it in another event."""
    found = list(events)
    if not any(event.event_type is dg.DagsterEventType.RUN_START for event in found):
        errors = [event.engine_event_data.error for event in found if event.is_engine_event]
        words = [error.message.strip().splitlines()[0].split(": ", 1)[-1] for error in errors if error is not None]
        if words:
            return [f"It could not be started: {words[-1]} Launch it again."]
    return [event.message or "It ended without a reason." for event in found if event.is_run_failure]


def _alert_of_run(record: dg.RunRecord, story: Story, ui_address: str) -> Alert:
    assets, tags = {key.asset_key.to_user_string() for key in story.unchecked}, record.dagster_run.tags
    return _about_run(
        record,
        ui_address,
        sorted(assets) or _assets_of(record.dagster_run),
        outcome="failed",
        message=" ".join(story.reasons) or "It ended without a reason.",
        check=", ".join(f"{key.name} (did not run)" for key in story.unchecked) or None,
        repeat="daily" if AUTOMATION_CONDITION_TAG in tags or SCHEDULE_NAME_TAG in tags else "always",
    )


def _success_of_run(record: dg.RunRecord, ui_address: str) -> Alert:
    message = "The last run had failed; this one succeeded."
    assets = _assets_of(record.dagster_run)
    return _about_run(record, ui_address, assets, outcome="succeeds again", message=message, level="info", is_over=True)


def _about_run(record: dg.RunRecord, ui_address: str, assets: list[str], *, outcome: str, **fields: Any) -> Alert:
    run = record.dagster_run
    return Alert(
        alert_id=f"run {run.run_id}",
        happened_at=record.end_time or 0.0,
        title=f"{_where(run, assets)}: the Dagster run {outcome}",
        asset=", ".join(assets),
        partition=run.tags.get(PARTITION_NAME_TAG),
        dagster_run_id=run.run_id,
        link=f"{ui_address}/runs/{run.run_id}",
        state=f"run of {_where(run, _assets_of(run))}",
        **fields,
    )


def _assets_of(run: dg.DagsterRun) -> list[str]:
    return sorted(key.to_user_string() for key in run.asset_selection or ()) or [run.job_name]


def _where(run: dg.DagsterRun, assets: list[str]) -> str:
    partition = run.tags.get(PARTITION_NAME_TAG)
    return ", ".join(assets) if partition is None else f"{', '.join(assets)} [{partition}]"
