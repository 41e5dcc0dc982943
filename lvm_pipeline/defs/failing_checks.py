"""The checks that fail now, by their latest result, and the acknowledgement of some."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from lvm_pipeline.adapters.acknowledged import read_acknowledged, write_acknowledged
from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.failing import Failure, is_worse
from lvm_pipeline.defs.failures import alert_of_check, executions, was_checked
from lvm_pipeline.defs.launch import all_checks, open_instance
from lvm_pipeline.errors import LvmError, nearest_or_all
from lvm_pipeline.settings import Settings


@dataclass(frozen=True, kw_only=True)
class FailingCheck:
    """A failing check, and whether it was acknowledged as it is now."""

    name: str  # `concepts:tmd_codes_are_assigned`, with the partition in brackets if it has one
    alert: Alert
    is_acknowledged: bool


def failing_now(settings: Settings) -> list[FailingCheck]:
    """Return the failing checks of the instance of the settings' home."""
    with open_instance(settings) as instance:
        return failing_checks(instance, settings, all_checks())


def failing_checks(
    instance: dg.DagsterInstance, settings: Settings, checks: Sequence[dg.AssetCheckKey]
) -> list[FailingCheck]:
    """Return the checks whose latest result is a failure or a warning, each partition by itself, by name."""
    acknowledged = read_acknowledged(settings)
    found = {alert.state or "": alert for alert in _latest(instance, settings, checks) if not alert.is_over}
    return [
        FailingCheck(
            name=name, alert=alert, is_acknowledged=name in acknowledged and not is_worse(alert, acknowledged[name])
        )
        for name, alert in sorted(found.items())
    ]


def _latest(instance: dg.DagsterInstance, settings: Settings, checks: Sequence[dg.AssetCheckKey]) -> Iterator[Alert]:
    partitions: defaultdict[dg.AssetCheckKey, set[str | None]] = defaultdict(set)
    for info in instance.event_log_storage.get_asset_check_partition_info(list(checks)):
        partitions[info.check_key].add(info.partition_key)
    for check in checks:
        missing = partitions[check]
        for record in executions(instance, check):
            if record.partition in missing and record.event is not None and was_checked(record):
                missing.remove(record.partition)
                yield alert_of_check(record, settings.ui_address)
            if not missing:
                break


def acknowledge(settings: Settings, failing: Sequence[FailingCheck], names: Sequence[str]) -> list[str]:
    """Acknowledge failing checks as they are now; a name without its asset or partition stands for all that it fits.

    Raises:
        LvmError: If a name fits no failing check.
    """
    chosen = {each.name: each.alert for name in names for each in _named(failing, name)}
    added = {name: Failure.of(alert, is_reported=False) for name, alert in chosen.items()}
    write_acknowledged(settings, {**read_acknowledged(settings), **added})
    return sorted(chosen)


def withdraw(settings: Settings, names: Sequence[str]) -> list[str]:
    """Remove acknowledgements; alerts are then sent as for any other check.

    Raises:
        LvmError: If a name fits no acknowledged check.
    """
    acknowledged = read_acknowledged(settings)
    removed = {state for name in names for state in _fitting(acknowledged, name, what="acknowledged check")}
    write_acknowledged(settings, {state: value for state, value in acknowledged.items() if state not in removed})
    return sorted(removed)


def _named(failing: Sequence[FailingCheck], name: str) -> list[FailingCheck]:
    fitting = _fitting([each.name for each in failing], name, what="failing check")
    return [each for each in failing if each.name in fitting]


def _fitting(states: Iterable[str], name: str, *, what: str) -> list[str]:
    known = list(states)
    found = [state for state in known if name in (state, state.partition(" [")[0], _check_of(state))]
    if not found:
        raise LvmError(f"There is no {what} {name!r}; {nearest_or_all(name, known)}")
    return found


def _check_of(state: str) -> str:
    return state.partition(" [")[0].partition(":")[2]
