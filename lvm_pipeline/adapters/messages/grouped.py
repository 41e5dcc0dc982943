"""One message for the checks of an asset that change in the same run, such as all drift checks when articles arrive."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.words import counted


def in_groups(alerts: Iterable[Alert]) -> Iterator[list[Alert]]:
    """Yield neighbouring alerts that one message can report, each of another check, in the order given."""
    group: list[Alert] = []
    for alert in alerts:
        is_same = bool(group) and _message_of(alert) == _message_of(group[0])
        if group and not (is_same and alert.state not in {each.state for each in group}):
            yield group
            group = []
        group.append(alert)
    if group:
        yield group


def _message_of(alert: Alert) -> tuple[object, ...]:
    """Return what alerts of one message have in common; an alert of no check and run has a message of its own."""
    if alert.check is None or alert.dagster_run_id is None:
        return (alert.alert_id,)
    return (alert.dagster_run_id, alert.asset, alert.partition, alert.level, alert.is_over, alert.is_summed_up)


def as_one(alerts: Sequence[Alert]) -> Alert:
    """Return the alert that reports all alerts of a group: a paragraph for each check, by name."""
    first = alerts[0]
    if len(alerts) == 1:
        return first
    where = first.asset if first.partition is None else f"{first.asset} [{first.partition}]"
    did = "pass again" if first.is_over else "warn" if first.level == "warning" else "failed"
    return replace(
        first,
        alert_id=", ".join(alert.alert_id for alert in alerts),
        title=f"{where}: {counted(len(alerts), 'check')} {did}",
        message="\n\n".join(_paragraph(alert) for alert in sorted(alerts, key=lambda alert: alert.check or "")),
        remedy=None,
        check=None,
        observed=None,
        allowed=None,
        link=None if first.link is None else first.link.partition("&checkDetail=")[0],
    )


def _paragraph(alert: Alert) -> str:
    remedy = "" if alert.remedy is None else f"\nWhat to do: {alert.remedy}"
    return f"{alert.check}: {alert.message}{remedy}"
