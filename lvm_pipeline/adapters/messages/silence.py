"""Detect from outside that a daemon has stopped sending heartbeats."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lvm_pipeline.adapters.messages.alert import Alert


@dataclass(kw_only=True)
class SilenceWatch:
    """Follows the heartbeats of a daemon's parts.

    A heartbeat counts when it differs from the one before, by the watcher's own clock: neither another machine's clock
    nor a laptop that slept looks like silence.

    Attributes:
        required: Names of the parts that must be heard.
        silence_seconds: How long without a new heartbeat is silence.
    """

    required: Iterable[str]
    silence_seconds: float
    _heard: dict[str, tuple[float | None, float]] = field(default_factory=dict)  # heartbeat, when it came here
    _is_reported: bool = False

    def look(self, heartbeats: Mapping[str, float], *, clock: float) -> list[str]:
        """Take the present heartbeats and return the silent parts, sorted.

        Args:
            heartbeats: Time of each part's last heartbeat, in seconds since 1970.
            clock: The watcher's own, steady seconds.
        """
        for name in self.required:
            beat = heartbeats.get(name)
            if name not in self._heard or self._heard[name][0] != beat:
                self._heard[name] = (beat, clock)
        silent = sorted(name for name in self.required if clock - self._heard[name][1] >= self.silence_seconds)
        if not silent:
            self._is_reported = False
        return silent

    def alert(self, silent: Iterable[str], *, now: float, link: str | None = None) -> Alert | None:
        """Return the alert for silent parts; None when there are none, or after `mark_reported`."""
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
            "Nothing runs by itself until the daemon is started again.",
            link=link,
        )

    def mark_reported(self) -> None:
        """Note that an alert was sent for this silence; the next silence is reported again."""
        self._is_reported = True
