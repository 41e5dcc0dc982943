"""Promises of delivery: each failure once, none lost, none in the way of another."""

import pytest

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.delivery import MAX_ATTEMPTS, MAX_PROBLEMS, deliver
from lvm_pipeline.adapters.messages.failing import REPEAT_SECONDS
from lvm_pipeline.adapters.messages.window import MAX_HANDLED, OVERLAP_SECONDS, PATIENCE_SECONDS, Window
from lvm_pipeline.errors import LvmError

NOW = 1_000_000.0


def alert(number, happened_at=NOW):
    return Alert(alert_id=f"check execution {number}", happened_at=happened_at, title="t", message="m")


class Sender:
    """Keeps what it is given, and refuses some alerts."""

    def __init__(self, refused=()):
        self.refused = set(refused)
        self.sent = []

    def __call__(self, alert):
        if alert.alert_id in self.refused:
            raise LvmError("The receiver is away.")
        self.sent.append(alert.alert_id)


@pytest.fixture
def window():
    return Window(since=NOW - 60)


def test_each_failure_is_sent_once_oldest_first(window):
    sender = Sender()
    found = [alert(2), alert(1, NOW - 30)]

    first = deliver(found, window, send=sender, now=NOW)
    second = deliver([*found, alert(3)], Window.from_text(first.window.as_text(), now=NOW), send=sender, now=NOW)

    assert sender.sent == ["check execution 1", "check execution 2", "check execution 3"]
    assert (first.in_words(), second.in_words()) == ("Sent 2 alerts.", "Sent 1 alert.")


def test_the_first_tick_sends_nothing_from_the_past():
    sender = Sender()

    deliver([alert(1, NOW - 1)], Window.from_text(None, now=NOW), send=sender, now=NOW)

    assert sender.sent == []


def test_a_failed_alert_does_not_block_others_and_is_sent_later(window):
    sender = Sender(refused={"check execution 1"})
    found = [alert(1), alert(2)]

    first = deliver(found, window, send=sender, now=NOW)
    assert sender.sent == ["check execution 2"]
    assert first.in_words() == "Sent 1 alert; 1 alert will be tried again: The receiver is away."
    sender.refused.clear()
    later = deliver(found, first.window, send=sender, now=NOW + PATIENCE_SECONDS - 1)

    assert sender.sent == ["check execution 2", "check execution 1"]
    assert later.num_waiting == 0


def test_undelivered_alerts_are_kept_over_many_ticks(window):
    sender = Sender(refused={"check execution 1"})
    for looks in range(4):
        window = deliver([alert(1)], window, send=sender, now=NOW + looks * OVERLAP_SECONDS).window
    sender.refused.clear()

    last = deliver([alert(1)], window, send=sender, now=NOW + 4 * OVERLAP_SECONDS)

    assert sender.sent == ["check execution 1"]
    assert last.in_words() == "Sent 1 alert."


def test_an_alert_is_dropped_after_a_day_of_failed_deliveries(window):
    sender = Sender(refused={"check execution 1"})
    first = deliver([alert(1)], window, send=sender, now=NOW)
    late = deliver([alert(1)], first.window, send=sender, now=NOW + PATIENCE_SECONDS + 1)
    sender.refused.clear()

    deliver([alert(1)], late.window, send=sender, now=NOW + PATIENCE_SECONDS + 2)

    assert sender.sent == []


def test_a_check_that_was_planned_long_before_it_failed_is_not_lost(window):
    sender = Sender()
    first = deliver([alert(9)], window, send=sender, now=NOW)

    deliver([alert(9), alert(4, NOW - OVERLAP_SECONDS / 2 + 300)], first.window, send=sender, now=NOW + 30)

    assert sender.sent == ["check execution 9", "check execution 4"]


def test_after_some_failed_deliveries_the_tick_ends(window):
    sender = Sender(refused={alert(number).alert_id for number in range(50)})

    outcome = deliver(map(alert, range(50)), window, send=sender, now=NOW)

    assert (len(outcome.problems), outcome.num_waiting) == (MAX_PROBLEMS, 50)


def test_many_alerts_are_sent_over_several_ticks(window):
    sender = Sender()
    found = [alert(number) for number in range(2 * MAX_ATTEMPTS)]

    first = deliver(found, window, send=sender, now=NOW)
    deliver(found, first.window, send=sender, now=NOW + 30)

    assert len(sender.sent) == len(set(sender.sent)) == 2 * MAX_ATTEMPTS


def test_the_window_stays_small_and_never_moves_back():
    window = Window(since=0.0)
    for round_ in range(30):
        delivered = [alert(f"{round_} {number}", NOW + round_) for number in range(100)]
        window = window.after(handled=delivered, waiting=[], failing={}, now=NOW + round_)

    assert len(window.handled) <= MAX_HANDLED
    assert window.unhandled([alert("0 1", NOW)]) == []


def repeated(number, happened_at, message="The database is away."):
    return Alert(
        alert_id=f"run {number}", happened_at=happened_at, title="t", message=message, state="s", repeat="daily"
    )


class Looks:
    """A sensor that keeps its window as text from look to look."""

    def __init__(self, sender):
        self.sender, self.text, self.found = sender, Window(since=NOW - 60).as_text(), []

    def __call__(self, *alerts, now):
        self.found += alerts
        delivery = deliver(self.found, Window.from_text(self.text, now=now), send=self.sender, now=now)
        self.text = delivery.window.as_text()
        sent, self.sender.sent = self.sender.sent, []
        return sent


def test_scheduled_failures_are_sent_once_and_again_after_a_day():
    look = Looks(Sender())
    rounds = {}
    for number in range(60):
        now = NOW + number * 1800
        if sent := look(repeated(number, now), now=now):
            rounds[number] = sent

    assert rounds == {0: ["run 0"], 48: ["run 48"]}
    assert REPEAT_SECONDS == 48 * 1800


def test_a_failure_for_another_reason_is_sent():
    look = Looks(Sender())
    assert look(repeated(1, NOW), now=NOW) == ["run 1"]

    assert look(repeated(2, NOW + 1800, "The disk is full."), now=NOW + 1800) == ["run 2"]


def test_a_series_whose_first_alert_failed_is_sent_later():
    sender = Sender(refused={"run 1"})
    look = Looks(sender)
    assert look(repeated(1, NOW), now=NOW) == []
    assert look(repeated(2, NOW + 60), now=NOW + 60) == []
    sender.refused.clear()

    assert look(repeated(3, NOW + 120), now=NOW + 120) == ["run 1"], "run 2 and 3 repeat it"
    assert look(repeated(4, NOW + 180), now=NOW + 180) == []


@pytest.mark.parametrize("set_back", [60.0, 7200.0])
def test_a_clock_that_is_set_back_neither_hides_nor_repeats_anything(set_back):
    look = Looks(Sender())
    assert look(repeated(1, NOW), now=NOW) == ["run 1"]
    now = NOW - set_back

    assert look(now=now) == []
    over = Alert(alert_id="run 2", happened_at=now + 30, title="t", message="m", state="s", is_over=True)
    assert look(over, repeated(3, now + 40, "The disk is full."), now=now + 60) == ["run 2", "run 3"]
    assert look(now=now + 90) == []


def test_failures_of_manual_runs_are_sent_each_time():
    look = Looks(Sender())

    assert look(alert(1), alert(2), now=NOW) == ["check execution 1", "check execution 2"]
