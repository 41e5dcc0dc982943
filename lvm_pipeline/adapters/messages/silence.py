"""Detect that daemons have stopped sending heartbeats."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lvm_pipeline.adapters.messages.alert import Alert


@dataclass(kw_only=True)
class SilenceWatch:
    """Follows the heartbeats of Dagster's daemons.

    Only changes of a heartbeat are timed, by the watcher's own clock, so that neither another machine's clock nor a
    laptop that slept counts as silence.
    """

    required: Iterable[str]  # names of the daemons that must send heartbeats
    silence_seconds: float  # time without a new heartbeat that counts as silence
    _heard: dict[str, tuple[float | None, float]] = field(default_factory=dict)  # heartbeat, when it came here
    _is_reported: bool = False

    def look(self, heartbeats: Mapping[str, float], *, clock: float) -> list[str]:
        """Return the silent daemons, sorted, given the last heartbeats (in seconds since 1970) and a steady clock."""
        for name in self.required:
            beat = heartbeats.get(name)
            if name not in self._heard or self._heard[name][0] != beat:
                self._heard[name] = (beat, clock)
        silent = sorted(name for name in self.required if clock - self._heard[name][1] >= self.silence_seconds)
        if not silent:
            self._is_reported = False
        return silent

    def alert(self, silent: Iterable[str], *, now: float, link: str | None = None) -> Alert | None:
        """Return the alert for silent daemons; None if there are none, or after `mark_reported`."""
        silent = list(silent)
        if not silent or self._is_reported:
            return None
        last = max((beat for name in silent if (beat := self._heard[name][0]) is not None), default=None)
        heard = "never" if last is None else f"{now - last:.0f} seconds ago"
        return Alert(
            alert_id=f"silence since {last or now:.0f}",
            happened_at=now,
            title="Dagster's daemon is silent",
            message=f"No heartbeat for {self.silence_seconds:g} seconds from {', '.join(silent)}; last heard {heard}. "
            "Schedules and sensors do not run until the daemon is started again.",
            link=link,
        )

    def mark_reported(self) -> None:
        """Note that an alert was sent for this silence; the next silence is reported again."""
        self._is_reported = True
