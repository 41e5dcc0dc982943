"""Promises of the watch: a silence is sent once; a slow clock or a sleeping machine is no silence."""

import pytest

from lvm_pipeline.adapters.messages.silence import SilenceWatch


@pytest.fixture
def watch():
    return SilenceWatch(required=["SCHEDULER", "SENSOR"], silence_seconds=60)


def test_new_heartbeats_are_not_silence(watch):
    for second in range(0, 600, 30):
        assert watch.look({"SCHEDULER": second, "SENSOR": second + 5}, clock=second) == []


def test_a_daemon_that_stops_is_named_once(watch):
    watch.look({"SCHEDULER": 100.0, "SENSOR": 100.0}, clock=0)

    silent = watch.look({"SCHEDULER": 160.0, "SENSOR": 100.0}, clock=60)
    alert = watch.alert(silent, now=175.0, link="http://ui/deployment/daemons")
    assert silent == ["SENSOR"]
    assert "from SENSOR; last heard 75 seconds ago" in alert.message
    assert alert.link == "http://ui/deployment/daemons"
    assert watch.alert(silent, now=176.0) is not None, "it was not delivered, so it is sent again"
    watch.mark_reported()

    assert watch.alert(watch.look({"SCHEDULER": 190.0, "SENSOR": 100.0}, clock=90), now=205.0) is None


def test_the_next_silence_is_sent_again(watch):
    watch.look({"SCHEDULER": 1.0, "SENSOR": 1.0}, clock=0)
    watch.alert(watch.look({"SCHEDULER": 1.0, "SENSOR": 1.0}, clock=60), now=61.0)
    watch.mark_reported()
    assert watch.look({"SCHEDULER": 70.0, "SENSOR": 70.0}, clock=70) == []

    assert watch.alert(watch.look({"SCHEDULER": 70.0, "SENSOR": 70.0}, clock=130), now=131.0) is not None


def test_a_daemon_without_any_heartbeat_is_silent_after_the_same_time(watch):
    assert watch.look({}, clock=0) == []

    silent = watch.look({}, clock=60)

    assert silent == ["SCHEDULER", "SENSOR"]
    assert "last heard never" in watch.alert(silent, now=100.0).message


def test_old_heartbeats_found_at_the_start_are_given_their_time(watch):
    assert watch.look({"SCHEDULER": 1.0, "SENSOR": 1.0}, clock=1_000_000) == []
