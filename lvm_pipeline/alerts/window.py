"""Which failures were told already: a time before which nothing is told, and the ids told since.

Failures do not come in the order of their ids (a check's id is given when it is planned, hours before it may fail) nor
quite in the order of their times, so a single "last one" would lose some. The window is short; it is kept as text.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from lvm_pipeline.alerts.alert import Alert

OVERLAP_SECONDS = 600.0  # how late a failure may become visible
PATIENCE_SECONDS = 86_400.0  # how long an alert is tried again
MAX_HANDLED = 1000


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was told.

    Attributes:
        since: Nothing that happened before is told, in seconds since 1970.
        handled: Time of each alert told since, by its id.
    """

    since: float
    handled: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str | None, *, now: float) -> "Window":
        """Return the window that `as_text` wrote; without one it begins now, and tells nothing of the past."""
        return cls(since=now) if text is None else cls(**json.loads(text))

    def as_text(self) -> str:
        """Return the window as JSON."""
        return json.dumps({"since": self.since, "handled": self.handled})

    def new(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Keep what is to be told now, oldest first, each once."""
        untold = {
            alert.alert_id: alert
            for alert in alerts
            if alert.happened_at >= self.since and alert.alert_id not in self.handled
        }
        return sorted(untold.values(), key=lambda alert: (alert.happened_at, alert.alert_id))

    def after(self, *, delivered: Iterable[Alert], waiting: Iterable[Alert], now: float) -> "Window":
        """Return the window after some alerts were told; it does not move past those that wait for another try."""
        since = min([now - OVERLAP_SECONDS, *(alert.happened_at for alert in waiting)])
        since = max(since, now - PATIENCE_SECONDS, self.since)
        handled = self.handled | {alert.alert_id: alert.happened_at for alert in delivered}
        kept = sorted((item for item in handled.items() if item[1] >= since), key=lambda item: item[1])
        if len(kept) > MAX_HANDLED:
            kept = kept[-MAX_HANDLED:]
            since = kept[0][1]
        return Window(since=since, handled=dict(kept))
