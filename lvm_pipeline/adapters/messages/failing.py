"""What fails now, so that only changes are reported: a failure that begins or gets worse, and its end.

A check that fails again with about the same value is not reported again. It gets worse if a warning becomes a failure,
or if its value moves further from the limit by `WORSE_FRACTION` of the distance. A failure that a person acknowledged
is compared with what was acknowledged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lvm_pipeline.adapters.messages.alert import LEVELS, Alert, Level

WORSE_FRACTION = 0.2
REPEAT_SECONDS = 86_400.0
MAX_FAILING = 2000


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failure that lasts: as it was when it was reported or acknowledged, and when it was last seen."""

    level: Level
    message: str
    observed: float | None = None
    allowed: float | None = None
    reported_at: float | None = None  # in seconds since 1970; None: not reported, as it is quiet
    seen_at: float = 0.0

    @classmethod
    def of(cls, alert: Alert, *, is_reported: bool) -> "Failure":
        return cls(
            level=alert.level,
            message=alert.message,
            observed=alert.observed,
            allowed=alert.allowed,
            reported_at=alert.happened_at if is_reported else None,
            seen_at=alert.happened_at,
        )


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """Alerts that are not sent: those below a level, of some checks, or acknowledged by a person."""

    level: Level = "info"
    checks: frozenset[str] = frozenset()
    acknowledged: Mapping[str, Failure] | None = None

    def hides(self, alert: Alert) -> bool:
        is_quiet_check = alert.check in self.checks and alert.level != "failure"
        return is_quiet_check or LEVELS.index(alert.level) < LEVELS.index(self.level)

    def acknowledgement(self, alert: Alert) -> Failure | None:
        return (self.acknowledged or {}).get(alert.state or "")


class FailingNow:
    """What fails now, by the name of its state; changed by one alert after the other, oldest first."""

    def __init__(self, failing: Mapping[str, Failure], quiet: Quiet):
        self._failing, self._quiet = dict(failing), quiet

    def is_outdated(self, alert: Alert) -> bool:
        """Whether a later result of the same state was seen, or a success ends no failure."""
        before = self._failing.get(alert.state or "")
        if before is None:
            return alert.is_over
        return alert.happened_at <= before.seen_at

    def is_news(self, alert: Alert) -> bool:
        """Whether an alert has to be sent."""
        if alert.is_summed_up or self._quiet.hides(alert):
            return False
        if alert.state is None:
            return True
        before, acknowledged = self._failing.get(alert.state), self._quiet.acknowledgement(alert)
        if alert.is_over:
            return before is not None and before.reported_at is not None
        if acknowledged is not None and not is_worse(alert, acknowledged):
            return False
        if before is None or before.reported_at is None:
            return True
        return is_worse(alert, before) or _is_due_again(alert, before, before.reported_at)

    def note(self, alert: Alert, *, is_sent: bool) -> None:
        """Change what fails now by an alert that was sent or is not news."""
        if alert.state is None:
            return
        before = self._failing.get(alert.state)
        if alert.is_over:
            self._failing.pop(alert.state, None)
        elif is_sent or alert.is_summed_up or before is None:
            self._failing[alert.state] = Failure.of(alert, is_reported=is_sent or alert.is_summed_up)
        else:
            self._failing[alert.state] = replace(before, seen_at=alert.happened_at)

    def as_mapping(self) -> dict[str, Failure]:
        """Return what fails now; of very many, those seen last."""
        newest = sorted(self._failing.items(), key=lambda item: item[1].seen_at)[-MAX_FAILING:]
        return dict(newest)


def is_worse(alert: Alert, before: Failure) -> bool:
    """Whether a failure is more severe than before, or its value is clearly further from the limit."""
    if LEVELS.index(alert.level) > LEVELS.index(before.level):
        return True
    if alert.observed is None or before.observed is None or alert.allowed is None:
        return False
    distance, distance_before = abs(alert.observed - alert.allowed), abs(before.observed - alert.allowed)
    return distance > (1 + WORSE_FRACTION) * distance_before


def _is_due_again(alert: Alert, before: Failure, reported_at: float) -> bool:
    if alert.repeat == "if_worse":
        return False
    is_day_later = alert.happened_at - reported_at >= REPEAT_SECONDS
    return alert.repeat == "always" or is_day_later or alert.message != before.message
