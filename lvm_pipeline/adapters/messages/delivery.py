"""Send what is news. Failed deliveries are retried later and do not block the others."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.failing import FailingNow, Quiet
from lvm_pipeline.adapters.messages.grouped import as_one, in_groups
from lvm_pipeline.adapters.messages.window import Window
from lvm_pipeline.errors import LvmError

MAX_ATTEMPTS = 20  # messages per tick: Dagster ends a long tick, and all its alerts would be sent again
MAX_PROBLEMS = 3  # per tick: after these failures the receiver counts as unreachable


SEND_ALL = Quiet()


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Result of a tick: the new window, counts of sent and waiting alerts, and the errors."""

    window: Window
    num_sent: int
    num_waiting: int
    problems: list[str]

    def in_words(self) -> str:
        if not self.num_sent and not self.num_waiting:
            return "Nothing new."
        sent = f"Sent {_alerts(self.num_sent)}"
        if not self.num_waiting:
            return f"{sent}."
        reason = f": {self.problems[0]}" if self.problems else "."
        return f"{sent}; {_alerts(self.num_waiting)} will be tried again{reason}"


def deliver(
    alerts: Iterable[Alert], window: Window, *, send: Callable[[Alert], None], now: float, quiet: Quiet = SEND_ALL
) -> Delivery:
    """Send every alert of the window that is news, and return the new window; `send` raises an LvmError if it fails.

    Alerts of several checks of an asset in one run are sent as one message. While an alert waits for a retry, later
    ones of the same state wait too: each is compared with the one before.
    """
    failing = FailingNow(window.failing, quiet)
    tally = _Tally()
    for group in in_groups(window.unhandled(alerts)):
        news = []
        for alert in group:
            if failing.is_outdated(alert):
                continue
            is_news = failing.is_news(alert)
            if alert.state in tally.waiting_states or (is_news and tally.is_full()):
                tally.waiting.append(alert)
            elif is_news:
                news.append(alert)
            else:
                failing.note(alert, is_sent=False)
                tally.handled.append(alert)
        if news and tally.try_to(send, news):
            for alert in news:
                failing.note(alert, is_sent=True)
    return Delivery(
        window=window.after(handled=tally.handled, waiting=tally.waiting, failing=failing.as_mapping(), now=now),
        num_sent=tally.num_sent,
        num_waiting=len(tally.waiting),
        problems=tally.problems,
    )


@dataclass(kw_only=True)
class _Tally:
    """What a tick did so far."""

    num_sent: int = 0
    num_messages: int = 0  # that were sent
    handled: list[Alert] = field(default_factory=list)
    waiting: list[Alert] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def waiting_states(self) -> set[str]:
        return {alert.state for alert in self.waiting if alert.state is not None}

    def is_full(self) -> bool:
        return self.num_messages + len(self.problems) >= MAX_ATTEMPTS or len(self.problems) >= MAX_PROBLEMS

    def try_to(self, send: Callable[[Alert], None], alerts: list[Alert]) -> bool:
        """Send alerts as one message; False if that failed, and they wait."""
        try:
            send(as_one(alerts))
        except LvmError as error:
            self.problems.append(str(error))
            self.waiting += alerts
            return False
        self.num_messages += 1
        self.num_sent += len(alerts)
        self.handled += alerts
        return True


def _alerts(number: int) -> str:
    return f"{number} alert{'' if number == 1 else 's'}"
