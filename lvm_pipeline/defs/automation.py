"""Automation conditions of the assets, evaluated by the sensor `automation`.

The source table is observed on a cron schedule. All other assets follow data versions, which are content hashes: equal
data triggers nothing. A failed blocking check stops everything downstream; a change that arrives meanwhile is handled
once the checks pass. After any other failure, such as an unreachable database, `concepts` and `sequences` are retried
at the next observation. Training is started by a person or the schedule, unless `LVM_RETRAIN_ON` says otherwise, and
is never retried automatically. The text decoder is then trained again with the models, once there is one.
"""

import warnings
from collections.abc import Iterable, Mapping

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.settings import Settings, load_settings

Condition = dg.AutomationCondition
ERROR = "champion_predicts_as_before"
INVARIANTS_OF_CONCEPTS = (*lineage.INVARIANTS["concepts"], *lineage.INVARIANTS["drift"])


def automated(assets: Iterable[dg.AssetsDefinition], settings: Settings) -> list[dg.AssetsDefinition]:
    conditions = automation_conditions(settings)

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=conditions.get(spec.key.to_user_string()))

    return list(dg.map_asset_specs(with_condition, assets))


def automation_conditions(settings: Settings) -> Mapping[str, Condition]:
    conditions = {
        "cpe_entry": dg.AutomationCondition.on_cron(settings.observation_cron),
        "concepts": when_its_checked_input_changed() | retry_on_cron(settings.observation_cron),
        "sequences": when_its_checked_input_changed() | retry_on_cron(settings.observation_cron),
    }
    if settings.retrain_on == "schedule":
        return conditions
    due = when_its_checked_input_changed()
    if settings.retrain_on != "new_data":
        due = due & drift_was_found(only=ERROR if settings.retrain_on == "error" else None)
    return conditions | {
        "trained_model": due & IsRetrained(),
        "text_decoder": due & ~dg.AutomationCondition.missing(),
        "evaluation_report": when_its_input_changed(),
        "leaderboard": when_its_input_changed(),
        "champion": when_its_input_changed(),
    }


def when_its_input_changed() -> Condition:
    """Upstream data changed since the last run, and neither the asset nor its inputs are in progress."""
    return (
        dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since_last_handled()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    )


def when_its_checked_input_changed() -> Condition:
    """The same, and no upstream blocking check has a failure as its latest result.

    Not for assets downstream of a partitioned one: Dagster 1.13 regards a partition's checks as outdated if they ran
    before the materialization, as ours do. There a new data version alone shows that they passed.
    """
    return when_its_input_changed() & no_blocking_check_of_its_input_failed()


def no_blocking_check_of_its_input_failed() -> Condition:
    """No upstream blocking check has a failure as its latest result; a check that could not run stops nothing."""
    return ~dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
    )


def retry_on_cron(cron: str) -> Condition:
    """At each cron tick while the latest run has failed for a reason other than a blocking check."""
    own_check_failed = dg.AutomationCondition.any_checks_match(
        dg.AutomationCondition.check_failed(), blocking_only=True
    )
    return (
        dg.AutomationCondition.cron_tick_passed(cron)
        & dg.AutomationCondition.execution_failed()
        & ~own_check_failed
        & no_blocking_check_of_its_input_failed()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    )


def drift_was_found(*, only: str | None = None) -> Condition:
    """A drift check of `concepts` fails: any of them, or the one that `only` names."""
    others = lineage.INVARIANTS["concepts"] if only is None else INVARIANTS_OF_CONCEPTS
    names = [invariant.name for invariant in others if invariant.name != only]
    invariants = dg.AssetSelection.checks(*(dg.AssetCheckKey(dg.AssetKey("concepts"), name) for name in names))
    failed = dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed()).ignore(invariants)
    return dg.AutomationCondition.asset_matches("concepts", failed)


class IsRetrained(dg.AutomationCondition):
    """Holds for the architectures that `LVM_RETRAINED_ARCHITECTURES` names, read at each evaluation."""

    @property
    def description(self) -> str:
        return "Is among LVM_RETRAINED_ARCHITECTURES"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        candidates = context.candidate_subset
        if candidates.is_empty:
            return dg.AutomationResult(context, true_subset=context.get_empty_subset())
        chosen = set(lineage.retrained_architectures(load_settings()))
        return dg.AutomationResult(context, true_subset=candidates.compute_intersection_with_partition_keys(chosen))


def automation_sensor(settings: Settings) -> dg.AutomationConditionSensorDefinition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            "automation",
            target=dg.AssetSelection.all(include_sources=True),
            description="Observes the source table on a schedule and updates the assets whose inputs changed.",
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=settings.automation_interval_seconds,
            emit_backfills=False,  # one run for each architecture, as the schedule starts them
            use_user_code_server=True,  # it knows `IsRetrained`
        )
