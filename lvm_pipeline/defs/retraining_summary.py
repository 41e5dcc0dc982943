"""One message for each scheduled retraining, once all its runs have ended."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import dagster as dg

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.defs.dagster_internals import PARTITION_NAME_TAG, SCHEDULE_NAME_TAG
from lvm_pipeline.defs.failures import EVENTS, read_story
from lvm_pipeline.defs.metadata import VERDICT
from lvm_pipeline.defs.schedules import NUM_RUNS_TAG, RETRAINING, RETRAINING_TAG

LATE_SECONDS = 300.0  # after the last run; runs that do not exist by then are not waited for
NONE = "none"


def find_retrainings(
    instance: dg.DagsterInstance, *, since: float, now: float, ui_address: str, quiet_checks: AbstractSet[str]
) -> Iterator[Alert]:
    """Return the summaries of scheduled retrainings that ended since a time, in seconds since 1970."""
    moment = datetime.fromtimestamp(since, tz=UTC)
    recent = instance.get_run_records(dg.RunsFilter(tags={SCHEDULE_NAME_TAG: RETRAINING}, updated_after=moment))
    for scheduled in sorted({record.dagster_run.tags.get(RETRAINING_TAG, "") for record in recent} - {""}):
        records = instance.get_run_records(dg.RunsFilter(tags={RETRAINING_TAG: scheduled}), ascending=True)
        ends = [record.end_time for record in records if record.end_time and record.dagster_run.is_finished]
        num_expected = max(int(record.dagster_run.tags.get(NUM_RUNS_TAG, 1)) for record in records)
        if len(ends) < len(records) or (len(ends) < num_expected and now - max(ends) < LATE_SECONDS):
            continue
        if max(ends) >= since:
            yield _summary(instance, records, scheduled, ui_address=ui_address, quiet_checks=quiet_checks)


def _summary(
    instance: dg.DagsterInstance,
    records: Sequence[dg.RunRecord],
    scheduled: str,
    *,
    ui_address: str,
    quiet_checks: AbstractSet[str],
) -> Alert:
    runs = [_RunSummary(instance, record, quiet_checks) for record in records]
    failed = [each for each in runs if each.reason is not None]
    champion, champion_line = _champion(runs)
    started = min(record.start_time or record.create_timestamp.timestamp() for record in records)
    ended = max(record.end_time or 0.0 for record in records)
    lines = [each.line() for each in runs]
    lines += [champion_line, f"The retraining took {ended - started:.0f} seconds."]
    outcome = f"{len(failed)} of {len(runs)} failed" if failed else champion
    pages = [each.made["leaderboard"].get("report") for each in runs if "leaderboard" in each.made]
    return Alert(
        alert_id=f"retraining {scheduled}",
        happened_at=ended,
        title=f"Retraining of {', '.join(each.architecture for each in runs)}: {outcome}",
        message="\n".join(lines),
        level="failure" if failed else "info",
        link=f"{ui_address}/runs?{urlencode({'q[0]': f'tag:{RETRAINING_TAG}={scheduled}'})}",
        report=next(filter(None, reversed(pages)), None),
    )


class _RunSummary:
    """What one run of a retraining trained, and how it ended."""

    def __init__(self, instance: dg.DagsterInstance, record: dg.RunRecord, quiet_checks: AbstractSet[str]):
        run = record.dagster_run
        self.architecture = run.tags.get(PARTITION_NAME_TAG, run.job_name)
        self.seconds = (record.end_time or 0.0) - (record.start_time or record.end_time or 0.0)
        self.made: dict[str, dict[str, Any]] = {}
        self.warnings: list[str] = []
        self._failed_checks: list[str] = []
        wanted = {*EVENTS, dg.DagsterEventType.ASSET_MATERIALIZATION}
        for entry in instance.all_logs(run.run_id, of_type=wanted):
            if entry.dagster_event is not None:
                self._take(entry.dagster_event, quiet_checks)
        self.reason = None if run.status is dg.DagsterRunStatus.SUCCESS else self._reason(instance, run)

    def _take(self, event: dg.DagsterEvent, quiet_checks: AbstractSet[str]) -> None:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            values = {name: value.value for name, value in made.metadata.items()}
            self.made[made.asset_key.to_user_string()] = values
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
                self._failed_checks.append(f"{found.check_name}: {found.description}")
            elif not found.passed and found.check_name not in quiet_checks:
                self.warnings.append(found.check_name)

    def _reason(self, instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
        if run.status is dg.DagsterRunStatus.CANCELED:
            return "the run was cancelled"
        reasons = self._failed_checks or read_story(instance, run.run_id).reasons
        return " ".join(reasons) or "it ended without a reason"

    def line(self) -> str:
        if self.reason is not None:
            return f"{self.architecture} failed: {self.reason}"
        model, report = self.made.get("trained_model", {}), self.made.get("evaluation_report", {})
        how = "trained" if model.get("was_trained_now", True) else "not trained again, as nothing has changed"
        verdict = f" {report[VERDICT]}" if VERDICT in report else ""
        warnings = f" Warnings: {', '.join(self.warnings)}." if self.warnings else ""
        page = f" {report['report']}" if "report" in report else ""
        trial_id = model.get("trial_id", "")
        return f"{self.architecture} {how} in {self.seconds:.0f} s ({trial_id}).{verdict}{warnings}{page}"


def _champion(runs: Sequence[_RunSummary]) -> tuple[str, str]:
    """Return the champion in a few words, and the sentence with the one before and why."""
    decisions = [each.made["champion"] for each in runs if "champion" in each.made]
    if not decisions:
        return "no champion was chosen", "Champion: the runs did not get as far as choosing one."
    before, after = decisions[0].get("champion_before", NONE), decisions[-1].get("champion", NONE)
    promoted = [decision for decision in decisions if decision.get("is_promoted")]
    reason = (promoted or decisions)[-1].get(VERDICT, "")
    if before == after:
        return f"the champion stays {after}", f"Champion: {after}, as before. {reason}"
    return f"new champion {after}", f"Champion: before {before}, now {after}. {reason}"
