"""Which alerts were handled already (all before a time, and the ids since then), and what fails now.

Failures become visible neither in the order of their ids (a check gets its id when it is planned, hours before it may
fail) nor quite in the order of their times, so a single "last id" would lose some. The window is stored as text.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.failing import Failure

OVERLAP_SECONDS = 600.0  # how late a failure may become visible
PATIENCE_SECONDS = 86_400.0  # how long a failed delivery is retried
MAX_HANDLED = 1000


@dataclass(frozen=True, kw_only=True)
class Window:
    """Alerts that were handled, and what fails now."""

    since: float  # everything before is handled, in seconds since 1970
    handled: dict[str, float] = field(default_factory=dict)  # time of each failure handled since, by id
    failing: dict[str, Failure] = field(default_factory=dict)  # what fails now, by the name of its state

    @classmethod
    def from_text(cls, text: str | None, *, now: float) -> "Window":
        """Return the window that `as_text` wrote; without one it begins now.

        If the clock was set back, the window starts again: later events would otherwise seem old.
        """
        if text is None:
            return cls(since=now)
        values = json.loads(text)
        was_set_back = values["since"] > now
        latest = now - OVERLAP_SECONDS if was_set_back else now
        failures = {state: Failure(**failure) for state, failure in values.get("failing", {}).items()}
        failing = {state: replace(each, seen_at=min(each.seen_at, latest)) for state, each in failures.items()}
        return cls(since=min(values["since"], latest), handled=values["handled"], failing=failing)

    def as_text(self) -> str:
        """Return the window as JSON."""
        return json.dumps(asdict(self))

    def unhandled(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Return the alerts that were not handled, each once, oldest first."""
        found = {a.alert_id: a for a in alerts if a.happened_at >= self.since and a.alert_id not in self.handled}
        return sorted(found.values(), key=lambda alert: (alert.happened_at, alert.alert_id))

    def after(
        self, *, handled: Iterable[Alert], waiting: Iterable[Alert], failing: Mapping[str, Failure], now: float
    ) -> "Window":
        """Return the window after some alerts were handled; it does not move past those that wait for a retry."""
        since = min([now - OVERLAP_SECONDS, *(alert.happened_at for alert in waiting)])
        since = max(since, now - PATIENCE_SECONDS, self.since)
        times = self.handled | {alert.alert_id: alert.happened_at for alert in handled if not alert.is_over}
        kept = sorted((item for item in times.items() if item[1] >= since), key=lambda item: item[1])
        if len(kept) > MAX_HANDLED:
            kept = kept[-MAX_HANDLED:]
            since = kept[0][1]
        return Window(since=since, handled=dict(kept), failing=dict(failing))
