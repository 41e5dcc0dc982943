"""Which failures were handled already: all before a time, and the ids since then.

Failures become visible neither in the order of their ids (a check gets its id when it is planned, hours before it may
fail) nor quite in the order of their times, so a single "last id" would lose some. The window is stored as text.

What a schedule or sensor retries fails again and again while its cause lasts: such a series is sent once, and again
after each day that it lasts.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from lvm_pipeline.adapters.messages.alert import Alert

OVERLAP_SECONDS = 600.0  # how late a failure may become visible
PATIENCE_SECONDS = 86_400.0  # how long a failed delivery is retried
MAX_HANDLED = 1000
SERIES_GAP_SECONDS = 7200.0  # after this time without the failure, the next one starts a new series
REPEAT_SECONDS = 86_400.0

Series = dict[str, tuple[float, float]]  # time of the sent alert and of the latest failure of each series


@dataclass(frozen=True, kw_only=True)
class Window:
    """Alerts that were handled."""

    since: float  # everything before is handled, in seconds since 1970
    handled: dict[str, float] = field(default_factory=dict)  # time of each alert handled since, by id
    ongoing: Series = field(default_factory=dict)  # series that go on

    @classmethod
    def from_text(cls, text: str | None, *, now: float) -> "Window":
        """Return the window that `as_text` wrote; without one it begins now."""
        return cls(since=now) if text is None else cls(**json.loads(text))

    def as_text(self) -> str:
        """Return the window as JSON."""
        return json.dumps(asdict(self))

    def unhandled(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Return the alerts that were not handled, each once, oldest first."""
        found = {a.alert_id: a for a in alerts if a.happened_at >= self.since and a.alert_id not in self.handled}
        return sorted(found.values(), key=lambda alert: (alert.happened_at, alert.alert_id))

    def after(self, *, handled: Iterable[Alert], waiting: Iterable[Alert], ongoing: Series, now: float) -> "Window":
        """Return the window after some alerts were handled; it does not move past those that wait for a retry."""
        since = min([now - OVERLAP_SECONDS, *(alert.happened_at for alert in waiting)])
        since = max(since, now - PATIENCE_SECONDS, self.since)
        times = self.handled | {alert.alert_id: alert.happened_at for alert in handled}
        kept = sorted((item for item in times.items() if item[1] >= since), key=lambda item: item[1])
        if len(kept) > MAX_HANDLED:
            kept = kept[-MAX_HANDLED:]
            since = kept[0][1]
        lasting = {series: times for series, times in ongoing.items() if times[1] >= now - SERIES_GAP_SECONDS}
        return Window(since=since, handled=dict(kept), ongoing=lasting)


def is_repeat(alert: Alert, ongoing: Series) -> bool:
    """Return whether an alert only continues a series that was sent, and add it to the series."""
    if alert.series is None:
        return False
    now = alert.happened_at
    sent_at, last = ongoing.get(alert.series, (-math.inf, -math.inf))
    repeats = now - last <= SERIES_GAP_SECONDS and now - sent_at < REPEAT_SECONDS
    ongoing[alert.series] = (sent_at, max(last, now)) if repeats else (now, now)
    return repeats
