"""`lvm alerts`: a test alert arrives, and a missing address ends in one sentence."""

import pytest
from typer.testing import CliRunner

from lvm_pipeline import cli
from lvm_pipeline.errors import LvmError


def test_a_test_alert_arrives(monkeypatch, receiver):
    monkeypatch.setenv("LVM_ALERT_URL", receiver.url)

    result = CliRunner().invoke(cli.app, ["alerts", "test"], catch_exceptions=False)

    assert result.exit_code == 0
    assert "s3cret" not in result.output
    (message,) = receiver.messages
    assert message["title"] == "Test alert"


def test_a_missing_address_is_reported():
    with pytest.raises(LvmError, match="LVM_ALERT_URL is not set"):
        CliRunner().invoke(cli.app, ["alerts", "test"], catch_exceptions=False)


def test_the_address_is_not_among_the_settings_that_are_shown(monkeypatch, receiver):
    monkeypatch.setenv("LVM_ALERT_URL", receiver.url)

    result = CliRunner().invoke(cli.app, ["settings", "--json"], catch_exceptions=False)

    assert "LVM_ALERT_URL" in result.output
    assert "s3cret" not in result.output
