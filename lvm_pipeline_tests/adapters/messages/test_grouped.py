"""Checks of an asset that change in one run are one message, with what each found and what to do."""

from dataclasses import replace

from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.adapters.messages.delivery import deliver
from lvm_pipeline.adapters.messages.grouped import as_one
from lvm_pipeline.adapters.messages.window import Window
from lvm_pipeline.errors import LvmError

NOW = 1_000_000.0
DRIFT = Alert(
    alert_id="check execution 1",
    happened_at=NOW,
    title="concepts: mean_vector_is_as_before warns",
    message="2.5 exceeds the limit of 1.3",
    remedy="Look at the articles.",
    level="warning",
    asset="concepts",
    check="mean_vector_is_as_before",
    observed=2.5,
    allowed=1.3,
    dagster_run_id="a run",
    link="http://ui/assets/concepts?view=checks&checkDetail=mean_vector_is_as_before",
    state="concepts:mean_vector_is_as_before",
    repeat="if_worse",
)


def another(number, check, **changes):
    return replace(
        DRIFT,
        alert_id=f"check execution {number}",
        check=check,
        state=f"concepts:{check}",
        **{"message": check, **changes},
    )


class Sender:
    def __init__(self):
        self.sent, self.is_away = [], False

    def __call__(self, alert):
        if self.is_away:
            raise LvmError("The receiver is away.")
        self.sent.append(alert)


def delivered(alerts, window=None, *, send, now=NOW):
    return deliver(alerts, window or Window(since=NOW - 60), send=send, now=now)


def test_the_checks_of_a_run_are_one_message_and_each_is_remembered():
    sender, found = Sender(), [DRIFT, another(2, "topic_mix_is_as_before")]

    first = delivered(found, send=sender)

    (message,) = sender.sent
    assert message.title == "concepts: 2 checks warn"
    body = message.body()
    assert "mean_vector_is_as_before: 2.5 exceeds the limit of 1.3\nWhat to do: Look at the articles." in body
    assert "topic_mix_is_as_before: topic_mix_is_as_before" in body
    assert "alert: check execution 1, check execution 2" in body
    assert "link: http://ui/assets/concepts?view=checks\n" in body + "\n"
    assert first.in_words() == "Sent 2 alerts."
    again = [replace(each, alert_id=f"{each.alert_id}0", happened_at=NOW + 1) for each in found]
    assert delivered(again, first.window, send=sender).num_sent == 0, "they fail as before"


def test_a_message_that_was_not_delivered_is_sent_whole_later():
    sender, found = Sender(), [DRIFT, another(2, "topic_mix_is_as_before")]
    sender.is_away = True
    first = delivered(found, send=sender)
    assert first.num_waiting == 2
    sender.is_away = False

    delivered(found, first.window, send=sender, now=NOW + 60)

    assert [each.title for each in sender.sent] == ["concepts: 2 checks warn"]


def test_other_runs_assets_partitions_and_levels_have_messages_of_their_own():
    found = [
        DRIFT,
        another(2, "b", dagster_run_id="another run"),
        another(3, "c", dagster_run_id="another run", asset="sequences"),
        another(4, "d", dagster_run_id="another run", asset="sequences", partition="gru"),
        another(5, "e", dagster_run_id="another run", asset="sequences", partition="gru", level="failure"),
    ]
    sender = Sender()

    delivered(found, send=sender)

    assert [each.alert_id for each in sender.sent] == [each.alert_id for each in found]


def test_a_check_that_ran_twice_in_a_run_is_reported_as_it_changed():
    sender = Sender()
    passes = replace(DRIFT, alert_id="check execution 9", happened_at=NOW + 1, level="info", is_over=True)

    delivered([DRIFT, replace(DRIFT, alert_id="check execution 3", happened_at=NOW + 0.5), passes], send=sender)

    assert [each.alert_id for each in sender.sent] == ["check execution 1", "check execution 9"]


def test_the_title_names_the_partition_and_what_happened():
    failed = [another(n, str(n), level="failure", partition="gru") for n in (1, 2, 3)]
    assert as_one(failed).title == "concepts [gru]: 3 checks failed"
    assert as_one([replace(each, is_over=True, level="info") for each in failed]).title.endswith("3 checks pass again")
    assert as_one([DRIFT]) is DRIFT
