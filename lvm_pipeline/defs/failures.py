"""Failed checks and failed runs, read from Dagster's storage (SQLite or Postgres) as alerts.

Every failed check, blocking or not, becomes an alert while its run is still in progress. A failed run becomes an alert
only if no failed check explains it; the alert names the checks that did not run because their step failed first.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, urlencode

import dagster as dg

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.defs.dagster_internals import (
    AUTOMATION_CONDITION_TAG,
    PARTITION_NAME_TAG,
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

MAX_EXECUTIONS = 100  # of one check, read per call
EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
}


def find_failures(
    instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], *, since: float, ui_address: str
) -> Iterator[Alert]:
    """Return the failures of these checks and their runs since a time (in seconds since 1970), each once.

    Ids do not change between calls. `ui_address` is that of the Dagster web UI, for the links.
    """
    for check in sorted(checks):
        failed_executions = instance.event_log_storage.get_asset_check_execution_history(
            check, limit=MAX_EXECUTIONS, status={AssetCheckExecutionRecordStatus.FAILED}
        )
        for record in failed_executions:
            if record.event is not None and record.event.timestamp >= since:
                yield _alert_of_check(record, ui_address)
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(since, tz=UTC))
    for record in instance.get_run_records(failed):
        if (record.end_time or 0.0) >= since:
            story = _read_story(instance, record.dagster_run.run_id)
            if not story.is_explained:
                yield _alert_of_run(record, story, ui_address)


def _alert_of_check(record: AssetCheckExecutionRecord, ui_address: str) -> Alert:
    assert record.event is not None
    assert record.evaluation is not None
    asset, name = record.key.asset_key.to_user_string(), record.key.name
    is_warning = record.evaluation.severity is dg.AssetCheckSeverity.WARN
    where = asset if record.partition is None else f"{asset} [{record.partition}]"
    page = urlencode({"view": "checks", "checkDetail": name})
    return Alert(
        alert_id=f"check execution {record.id}",
        happened_at=record.event.timestamp,
        title=f"{where}: {name} {'warns' if is_warning else 'failed'}",
        message=record.evaluation.description or f"The check {name} of {where} did not pass.",
        remedy=_text(record.evaluation.metadata.get("remedy")),
        is_warning=is_warning,
        asset=asset,
        partition=record.partition,
        check=name,
        observed=_number(record.evaluation.metadata.get("observed")),
        allowed=_number(record.evaluation.metadata.get("allowed")),
        dagster_run_id=record.run_id or None,
        link=f"{ui_address}/assets/{quote(asset)}?{page}",
    )


def _number(value: dg.MetadataValue | None) -> float | None:
    number = value.value if isinstance(value, dg.FloatMetadataValue | dg.IntMetadataValue) else None
    return None if number is None else float(number)


def _text(value: dg.MetadataValue | None) -> str | None:
    return value.value if isinstance(value, dg.TextMetadataValue) else None


class _Story(NamedTuple):
    """Why a run failed: errors of its failed steps, whether failed checks explain it, checks that did not run."""

    reasons: list[str]
    is_explained: bool
    unchecked: list[dg.AssetCheckKey]


def _read_story(instance: dg.DagsterInstance, run_id: str) -> _Story:
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
        reasons = [event.message or "It ended without a reason." for event in events if event.is_run_failure]
    return _Story(
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


def _alert_of_run(record: dg.RunRecord, story: _Story, ui_address: str) -> Alert:
    run = record.dagster_run
    assets = sorted(key.to_user_string() for key in run.asset_selection or ()) or [run.job_name]
    if story.unchecked:
        assets = sorted({key.asset_key.to_user_string() for key in story.unchecked})
    partition = run.tags.get(PARTITION_NAME_TAG)
    where = ", ".join(assets) if partition is None else f"{', '.join(assets)} [{partition}]"
    return Alert(
        alert_id=f"run {run.run_id}",
        happened_at=record.end_time or 0.0,
        title=f"{where}: the Dagster run failed",
        message=" ".join(story.reasons) or "It ended without a reason.",
        asset=", ".join(assets),
        partition=partition,
        check=", ".join(f"{key.name} (did not run)" for key in story.unchecked) or None,
        dagster_run_id=run.run_id,
        link=f"{ui_address}/runs/{run.run_id}",
        repeats_by_itself=AUTOMATION_CONDITION_TAG in run.tags,
    )
