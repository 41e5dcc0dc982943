"""Schedules."""

from collections.abc import Iterator

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs.checks import CHECKED_TRIAL_TAG, lvm_errors_as_failures
from lvm_pipeline.defs.concepts import concepts
from lvm_pipeline.defs.dagster_internals import PARTITION_NAME_TAG, AssetCheckExecutionRecordStatus
from lvm_pipeline.defs.jobs import train_architecture, verify_data, verify_ensemble, verify_model
from lvm_pipeline.defs.partitions import ENSEMBLE, architecture_partitions
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.errors import LvmError
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
            return
        if failing := failing_blocking_checks(context.instance):
            yield dg.SkipReason(f"Not retrained: the data fail {', '.join(failing)}; refresh them first.")
            return
        moment = context.scheduled_execution_time.isoformat(timespec="minutes")
        for architecture in architectures:  # the pool `gpu` lets them queue
            tags = {RETRAINING_TAG: moment, NUM_RUNS_TAG: str(len(architectures))}
            yield dg.RunRequest(run_key=f"{moment} {architecture}", partition_key=architecture, tags=tags)

    return retrain


def verifications(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules that check promoted products without rebuilding them; they are on by default."""
    options = {
        "cron_schedule": settings.verification_cron,
        "execution_timezone": "UTC",
        "default_status": dg.DefaultScheduleStatus.RUNNING,
    }

    @dg.schedule(
        name="verification",
        job=verify_data,
        description="Checks the promoted concepts and sequences, and drift.",
        **options,
    )
    def verify_tables(_context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if not load_settings().sequences_path.is_file():
            return dg.SkipReason("There are no promoted data yet.")
        return dg.RunRequest()

    @dg.schedule(
        name="model_verification", job=verify_model, description="Checks the champion's trained model.", **options
    )
    def verify_champion(_context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        architecture, trial_id, why_none = champions_model()
        if architecture is None:
            return dg.SkipReason(why_none)
        if not architecture_partitions.has_partition_key(architecture):
            by_hand = "check its model with `lvm verify --products`"
            how = "the schedule ensemble_verification checks it" if architecture == ENSEMBLE else by_hand
            return dg.SkipReason(f"The champion's architecture, {architecture}, has no partition; {how}.")
        tags = {PARTITION_NAME_TAG: architecture, CHECKED_TRIAL_TAG: trial_id}
        return dg.RunRequest(tags=tags)  # a job of checks alone has no partitions

    @dg.schedule(
        name="ensemble_verification",
        job=verify_ensemble,
        description="Checks the champion's model if it is an ensemble.",
        **options,
    )
    def verify_champion_ensemble(_context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        architecture, trial_id, _ = champions_model()
        if architecture != ENSEMBLE:
            return dg.SkipReason("The champion is no ensemble with a model here.")
        return dg.RunRequest(tags={CHECKED_TRIAL_TAG: trial_id})

    return [verify_tables, verify_champion, verify_champion_ensemble]


def champions_model() -> tuple[str | None, str, str]:
    """Return architecture and trial id of the champion; None, "" and the reason if there is none with a model here."""
    settings = load_settings()
    try:
        folder = lineage.champions_trial(settings)
    except LvmError as error:
        return None, "", str(error)
    if folder is None:
        return None, "", "There is no champion yet."
    return lineage.read_champion(settings)["architecture"], folder.trial_id, ""


def failing_blocking_checks(instance: dg.DagsterInstance) -> list[str]:
    """Return the blocking checks of the data whose latest result is a failure; a warning of theirs stops nothing."""
    keys = [spec.key for asset in (concepts, sequences) for spec in asset.check_specs if spec.blocking]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    failed, severe = AssetCheckExecutionRecordStatus.FAILED, dg.AssetCheckSeverity.ERROR
    return sorted(
        key.name
        for key, record in latest.items()
        if record.status is failed and (record.evaluation is None or record.evaluation.severity is severe)
    )
