"""Send new alerts. Failed deliveries are retried later and do not block the others."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.window import Window, is_repeat
from lvm_pipeline.errors import LvmError

MAX_ATTEMPTS = 20  # per tick: Dagster ends a long tick, and all its alerts would be sent again
MAX_PROBLEMS = 3  # per tick: after these failures the receiver counts as unreachable


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Result of a tick: the new window, counts of sent and waiting alerts, and the errors."""

    window: Window
    num_sent: int
    num_waiting: int
    problems: list[str]

    def in_words(self) -> str:
        if not self.num_sent and not self.num_waiting:
            return "No new failures."
        sent = f"Sent {_alerts(self.num_sent)}"
        if not self.num_waiting:
            return f"{sent}."
        reason = f": {self.problems[0]}" if self.problems else "."
        return f"{sent}; {_alerts(self.num_waiting)} will be tried again{reason}"


def deliver(alerts: Iterable[Alert], window: Window, *, send: Callable[[Alert], None], now: float) -> Delivery:
    """Send every alert that is not in the window, and return the new window; `send` raises an LvmError if it fails."""
    sent: list[Alert] = []
    repeated: list[Alert] = []
    waiting: list[Alert] = []
    problems: list[str] = []
    ongoing = dict(window.ongoing)
    for alert in window.unhandled(alerts):
        if is_repeat(alert, ongoing):
            repeated.append(alert)
        elif len(sent) + len(problems) >= MAX_ATTEMPTS or len(problems) >= MAX_PROBLEMS:
            waiting.append(alert)
        else:
            try:
                send(alert)
                sent.append(alert)
            except LvmError as error:
                problems.append(str(error))
                waiting.append(alert)
    unsent = {alert.series for alert in waiting}
    ongoing = {series: times for series, times in ongoing.items() if series not in unsent}
    return Delivery(
        window=window.after(handled=[*sent, *repeated], waiting=waiting, ongoing=ongoing, now=now),
        num_sent=len(sent),
        num_waiting=len(waiting),
        problems=problems,
    )


def _alerts(number: int) -> str:
    return f"{number} alert{'' if number == 1 else 's'}"
