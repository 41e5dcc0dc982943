"""A month of refreshes and retrainings: one message for each real event, and none else."""

from dataclasses import replace

import pytest

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.delivery import deliver
from lvm_pipeline.adapters.messages.failing import Failure, Quiet
from lvm_pipeline.adapters.messages.window import Window
from lvm_pipeline.errors import LvmError

START = 1_700_000_000.0
HOUR, DAY = 3600.0, 86_400.0
THRESHOLDS = ("cosine_is_above_minimum_viable", "cosine_is_above_production")
ARCHITECTURES = ("gru", "lstm")


class Month:
    """A sensor that looks at the alerts of the last minutes, with its window kept as text."""

    def __init__(self, quiet):
        self.text, self.quiet, self.sent, self.number = Window(since=START - 1).as_text(), quiet, [], 0
        self.events, self.is_receiver_away = [], False

    def check(self, now, state, *, failing, observed=0.0, allowed=0.0, level="warning", is_summed_up=False):
        self.number += 1
        name = state.partition(" [")[0].partition(":")[2]
        self.events.append(
            Alert(
                alert_id=f"check execution {self.number}", happened_at=now, title=state, message=f"value {observed}",
                level=level if failing else "info", check=name, observed=observed, allowed=allowed, state=state,
                is_over=not failing, repeat="if_worse", is_summed_up=is_summed_up,
            )
        )  # fmt: skip

    def run(self, now, state, *, failing, reason=""):
        self.number += 1
        self.events.append(
            Alert(
                alert_id=f"run {self.number}", happened_at=now, title=state, message=reason, state=state,
                level="failure" if failing else "info", is_over=not failing, repeat="daily",
            )
        )  # fmt: skip

    def retraining(self, now, *, failed=0):
        for architecture in ARCHITECTURES:
            for name in THRESHOLDS:
                state = f"evaluation_report:{name} [{architecture}]"
                self.check(now, state, failing=True, observed=0.49, allowed=0.7, is_summed_up=True)
        level = "failure" if failed else "info"
        self.events.append(
            Alert(alert_id=f"retraining {now}", happened_at=now, title="retraining", message="", level=level)
        )

    def look(self, now):
        def send(alert):
            if self.is_receiver_away:
                raise LvmError("The receiver is away.")
            self.sent.append(("over" if alert.is_over else alert.level, alert.title))

        window = Window.from_text(self.text, now=now)
        found = [alert for alert in self.events if alert.happened_at >= window.since]
        self.text = deliver(found, window, send=send, now=now, quiet=self.quiet).window.as_text()
        self.events = [alert for alert in self.events if alert.happened_at >= now - DAY]


CODES, VECTORS, ACKNOWLEDGED = "concepts:tmd_codes_are_assigned", "concepts:vectors_are_there", "concepts:articles"


def refresh(month, hour, now):
    """One hour of a month: what happens is written here, and everything else is as it was."""
    month.check(now, CODES, failing=hour < 500, observed=14_045 + hour % 7 if hour < 200 else 40_000)
    month.check(now, VECTORS, failing=100 <= hour < 103, observed=0.9, allowed=1.0, level="failure")
    month.check(now, ACKNOWLEDGED, failing=True, observed=5 if hour < 600 else 50)
    month.check(now, "sequences:steady", failing=False)
    month.run(now, "run of concepts", failing=300 <= hour < 310, reason="The database is away.")
    if hour % 168 == 3:
        month.retraining(now + 1, failed=hour > 500)


EXPECTED = [
    ("warning", CODES),  # the first refresh
    *[("info", "retraining")],
    ("failure", VECTORS),
    ("over", VECTORS),
    ("info", "retraining"),
    ("warning", CODES),  # hour 200: nearly three times as many
    ("failure", "run of concepts"),
    ("over", "run of concepts"),
    ("info", "retraining"),
    ("over", CODES),  # hour 500
    ("failure", "retraining"),
    ("warning", ACKNOWLEDGED),  # hour 600: ten times what was acknowledged
    ("failure", "retraining"),
]


@pytest.fixture
def month():
    acknowledged = {ACKNOWLEDGED: Failure(level="warning", message="", observed=5, allowed=0)}
    return Month(Quiet(checks=frozenset(THRESHOLDS), acknowledged=acknowledged))


def test_a_month_has_one_message_for_each_real_event(month):
    for hour in range(30 * 24):
        now = START + hour * HOUR
        refresh(month, hour, now)
        month.look(now + 30)
        month.look(now + 900)

    assert month.sent == EXPECTED


def test_the_month_is_the_same_when_the_receiver_is_away_for_hours(month):
    for hour in range(30 * 24):
        now = START + hour * HOUR
        month.is_receiver_away = hour in range(98, 101) or hour in range(305, 312)
        refresh(month, hour, now)
        month.look(now + 30)
        month.look(now + 900)

    assert month.sent == EXPECTED


def test_a_level_keeps_less_severe_alerts_quiet(month):
    month.quiet = replace(month.quiet, level="failure")
    for hour in range(30 * 24):
        refresh(month, hour, START + hour * HOUR)
        month.look(START + hour * HOUR + 30)

    assert month.sent == [each for each in EXPECTED if each[0] == "failure"]


def test_a_quiet_check_that_blocks_is_sent(month):
    state = f"evaluation_report:{THRESHOLDS[0]} [gru]"
    month.check(START, state, failing=True, observed=0.5, allowed=0.7)
    month.look(START + 1)
    assert month.sent == []

    month.check(START + 60, state, failing=True, observed=0.5, allowed=0.7, level="failure")
    month.look(START + 61)

    assert month.sent == [("failure", state)]


def test_a_window_of_an_earlier_version_is_read():
    window = Window.from_text('{"since": 5.0, "handled": {"run 1": 6.0}, "ongoing": {"abc": [1.0, 2.0]}}', now=9.0)

    assert (window.since, window.handled, window.failing) == (5.0, {"run 1": 6.0}, {})
