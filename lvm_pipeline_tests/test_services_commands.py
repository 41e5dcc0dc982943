"""Commands about services: `lvm alerts`, `lvm env`, and what `lvm ui` refuses before it starts any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lvm_pipeline.adapters import services
from lvm_pipeline.cli import commands
from lvm_pipeline.defs import daemon_watch
from lvm_pipeline.errors import LvmError


def test_a_test_alert_arrives(monkeypatch, receiver):
    monkeypatch.setenv("LVM_ALERT_URL", receiver.url)

    result = CliRunner().invoke(commands.app, ["alerts", "test"], catch_exceptions=False)

    assert result.exit_code == 0
    assert "s3cret" not in result.output
    (message,) = receiver.messages
    assert message["title"] == "Test alert"


def test_a_missing_address_is_reported():
    with pytest.raises(LvmError, match="LVM_ALERT_URL is not set"):
        CliRunner().invoke(commands.app, ["alerts", "test"], catch_exceptions=False)


def test_nothing_is_watched_without_an_address(lvm):
    code, _, error = lvm("alerts", "watch")

    assert (code, "LVM_ALERT_URL is not set" in error) == (1, True)


@pytest.mark.postgres
def test_the_watch_says_what_it_does(lvm, lvm_home, embedded_server, monkeypatch, receiver):
    monkeypatch.setenv("LVM_ALERT_URL", receiver.url)
    monkeypatch.setattr(daemon_watch, "watch", lambda *_, **__: None)  # it would not end

    assert lvm("alerts", "watch") == (0, "Watching the Dagster daemon; Ctrl-C stops.\n", "")


def test_the_address_is_not_among_the_settings_that_are_shown(monkeypatch, receiver):
    monkeypatch.setenv("LVM_ALERT_URL", receiver.url)

    result = CliRunner().invoke(commands.app, ["settings", "--json"], catch_exceptions=False)

    assert "LVM_ALERT_URL" in result.output
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LVM_RETRAINED_ARCHITECTURES", "gruu"),
        ("LVM_SEVERITIES", "no_such_check=warning"),
        ("LVM_REPORTS_URL", "reports.example.org"),
    ],
)
def test_services_are_not_started_with_a_setting_that_would_fail_them_later(lvm, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(services, "run_services", lambda _settings: None)

    code, _, error = lvm("ui")

    assert (code, name in error) == (1, True)


@pytest.mark.postgres
def test_a_shell_gets_what_dagsters_own_commands_need(lvm_home, embedded_server, monkeypatch):
    monkeypatch.setenv("LVM_HOME", str(lvm_home))
    printed = CliRunner().invoke(commands.app, ["env"], catch_exceptions=False).output
    assert "postgresql" not in printed, "no secrets"
    script = f"{printed}\n{Path(sys.executable).parent}/dagster instance info"

    shell = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    done = subprocess.run(["bash", "-c", script], env=shell, capture_output=True, text=True, check=True)

    assert "schedule_storage:" in done.stdout, "the tables of the embedded server"
    assert str(lvm_home / "dagster") in done.stdout
