"""The watch over the daemon, with real heartbeats in a real storage and a real receiver."""

import threading
import time

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from lvm_pipeline.defs.daemon_watch import watch
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.adapters.processes import wait_until

SILENCE_SECONDS = 1


def beat(instance):
    for name in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), name, "id", errors=[]))


@pytest.fixture
def watched(tmp_path, receiver):
    """An instance whose daemon is watched, by a thread that ends with the test."""
    settings = Settings(home=tmp_path, alert_url=receiver.url, daemon_silence_seconds=SILENCE_SECONDS)
    is_over = threading.Event()
    with dg.instance_for_test() as instance:
        beat(instance)
        thread = threading.Thread(target=watch, args=(instance, settings), kwargs={"is_over": is_over})
        thread.start()
        yield instance
        is_over.set()
        thread.join()


def test_each_silence_is_sent_until_it_is_delivered_once(watched, receiver):
    receiver.num_refusals = 1

    assert wait_until(lambda: len(receiver.messages) == 1, seconds=60)

    assert receiver.num_requests == 2, "the refused one was tried again"
    assert receiver.messages[0]["title"] == "Dagster's daemon is silent"
    assert "SCHEDULER" in receiver.messages[0]["message"]
    assert "link: http://127.0.0.1:3000/deployment/daemons" in receiver.messages[0]["message"]
    beat(watched)
    assert wait_until(lambda: len(receiver.messages) == 2, seconds=60), "the next silence is sent too"
    assert receiver.num_requests == 3
