"""Which failures were told already: a time before which nothing is told, and the ids told since.

Failures do not come in the order of their ids (a check's id is given when it is planned, hours before it may fail) nor
quite in the order of their times, so a single "last one" would lose some. The window is short; it is kept as text.

What is tried by the clock fails again and again while its cause lasts, a database that is away at every look: that is
told once, and once more for each day that it lasts.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from lvm_pipeline.adapters.messages.alert import Alert

OVERLAP_SECONDS = 600.0  # how late a failure may become visible
PATIENCE_SECONDS = 86_400.0  # how long an alert is tried again
MAX_HANDLED = 1000
SERIES_GAP_SECONDS = 7200.0  # after so long without it, the same failure is a new one
TOLD_AGAIN_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was told.

    Attributes:
        since: Nothing that happened before is told, in seconds since 1970.
        handled: Time of each alert told since, by its id.
        ongoing: Of each series that goes on, when it was told and when it failed last.
    """

    since: float
    handled: dict[str, float] = field(default_factory=dict)
    ongoing: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str | None, *, now: float) -> "Window":
        """Return the window that `as_text` wrote; without one it begins now, and tells nothing of the past."""
        return cls(since=now) if text is None else cls(**json.loads(text))

    def as_text(self) -> str:
        """Return the window as JSON."""
        return json.dumps(asdict(self))

    def new(self, alerts: Iterable[Alert]) -> tuple[list[Alert], list[Alert]]:
        """Return what is to be told now, each once, and what only goes on; oldest first."""
        untold = {
            alert.alert_id: alert
            for alert in alerts
            if alert.happened_at >= self.since and alert.alert_id not in self.handled
        }
        told, going_on, ongoing = [], [], dict(self.ongoing)
        for alert in sorted(untold.values(), key=lambda alert: (alert.happened_at, alert.alert_id)):
            is_told = alert.series is None or not _goes_on(ongoing.get(alert.series), alert.happened_at)
            (told if is_told else going_on).append(alert)
            _note(ongoing, alert, is_told=is_told)
        return told, going_on

    def after(
        self,
        *,
        delivered: Iterable[Alert],
        waiting: Iterable[Alert],
        now: float,
        going_on: Iterable[Alert] = (),
    ) -> "Window":
        """Return the window after some alerts were told; it does not move past those that wait for another try."""
        delivered, going_on, ongoing = list(delivered), list(going_on), dict(self.ongoing)
        for alert in delivered:
            _note(ongoing, alert, is_told=True)
        for alert in going_on:
            _note(ongoing, alert, is_told=False)
        since = min([now - OVERLAP_SECONDS, *(alert.happened_at for alert in waiting)])
        since = max(since, now - PATIENCE_SECONDS, self.since)
        handled = self.handled | {alert.alert_id: alert.happened_at for alert in [*delivered, *going_on]}
        kept = sorted((item for item in handled.items() if item[1] >= since), key=lambda item: item[1])
        if len(kept) > MAX_HANDLED:
            kept = kept[-MAX_HANDLED:]
            since = kept[0][1]
        lasting = {series: times for series, times in ongoing.items() if times[1] >= now - SERIES_GAP_SECONDS}
        return Window(since=since, handled=dict(kept), ongoing=lasting)


def _goes_on(times: tuple[float, float] | None, happened_at: float) -> bool:
    if times is None:
        return False
    told_at, last = times
    return happened_at - last <= SERIES_GAP_SECONDS and happened_at - told_at < TOLD_AGAIN_SECONDS


def _note(ongoing: dict[str, tuple[float, float]], alert: Alert, *, is_told: bool) -> None:
    """Remember a failure of a series; one that was never told, since its first alert still waits, is not."""
    if alert.series is None:
        return
    if is_told:
        ongoing[alert.series] = (alert.happened_at, alert.happened_at)
    elif alert.series in ongoing:
        told_at, last = ongoing[alert.series]
        ongoing[alert.series] = (told_at, max(last, alert.happened_at))
