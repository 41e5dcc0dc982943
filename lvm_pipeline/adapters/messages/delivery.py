"""Send what is new; what cannot be delivered waits for the next time and holds nothing else up."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.window import Window
from lvm_pipeline.errors import LvmError

MAX_ATTEMPTS = 20  # at a time: one look must end before Dagster cuts it off, or all of them would be sent again
MAX_PROBLEMS = 3  # at a time: after these the receiver is taken for away


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What came of one round: the window after it, how many were sent, how many wait, and why those failed."""

    window: Window
    num_sent: int
    num_waiting: int
    problems: list[str]

    def in_words(self) -> str:
        """Return the outcome as one sentence."""
        if not self.num_sent and not self.num_waiting:
            return "Nothing new failed."
        told = f"Sent {_alerts(self.num_sent)}"
        if not self.num_waiting:
            return f"{told}."
        reason = f": {self.problems[0]}" if self.problems else "."
        return f"{told}; {_alerts(self.num_waiting)} will be tried again{reason}"


def deliver(alerts: Iterable[Alert], window: Window, *, send: Callable[[Alert], None], now: float) -> Delivery:
    """Send every alert that was not told yet.

    Args:
        alerts: What failed; may hold what was told before.
        window: What was told.
        send: Delivers one alert, or raises an `LvmError` that says why it could not.
        now: In seconds since 1970.
    """
    delivered: list[Alert] = []
    waiting: list[Alert] = []
    problems: list[str] = []
    new, going_on = window.new(alerts)
    for number, alert in enumerate(new):
        if number >= MAX_ATTEMPTS or len(problems) >= MAX_PROBLEMS:
            waiting.append(alert)
            continue
        try:
            send(alert)
            delivered.append(alert)
        except LvmError as error:
            problems.append(str(error))
            waiting.append(alert)
    return Delivery(
        window=window.after(delivered=delivered, waiting=waiting, now=now, going_on=going_on),
        num_sent=len(delivered),
        num_waiting=len(waiting),
        problems=problems,
    )


def _alerts(number: int) -> str:
    return f"{number} alert{'' if number == 1 else 's'}"
