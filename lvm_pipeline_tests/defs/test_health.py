"""Promises of how Dagster's state is read."""

import time

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from lvm_pipeline.defs import health
from lvm_pipeline.settings import Settings


@pytest.mark.parametrize(("silence_seconds", "is_silent"), [(300, False), (200, True)])
def test_a_daemon_is_silent_after_the_time_that_the_setting_names(tmp_path, monkeypatch, silence_seconds, is_silent):
    settings = Settings(home=tmp_path, daemon_silence_seconds=silence_seconds)
    with dg.instance_for_test() as instance:
        monkeypatch.setattr(
            health, "open_instance", lambda settings: dg.instance_for_test(temp_dir=instance.root_directory)
        )
        for name in instance.get_required_daemon_types():
            instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 240, name, "id", []))

        silent = health.dagster_health(settings).silent_daemons

        assert bool(silent) is is_silent
