"""Promises of the adapter: a message arrives at a real receiver, and no secret is ever sent."""

import json
from dataclasses import replace

import pytest

from lvm_pipeline.adapters import alerts
from lvm_pipeline.adapters.messages.alert import Alert
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

ALERT = Alert(
    alert_id="run 1",
    happened_at=0.0,
    title="concepts: the Dagster run failed",
    message="No Postgres answers at postgresql://me:hush-hush@host/db.",
    asset="concepts",
)


def test_a_webhook_gets_title_text_and_kind(tmp_path, receiver):
    alerts.send(Settings(home=tmp_path, alert_url=receiver.url), ALERT)

    (message,) = receiver.messages
    assert message["title"] == ALERT.title
    assert message["type"] == "failure"
    assert "asset: concepts" in message["message"]
    assert "hush-hush" not in json.dumps(message)


def test_a_file_gets_one_line_a_message(tmp_path):
    path = tmp_path / "My alerts" / "all.jsonl"
    settings = Settings(home=tmp_path, alert_url=path.as_uri())

    alerts.send(settings, ALERT)
    alerts.send(settings, ALERT)

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["title"] for line in lines] == [ALERT.title] * 2
    assert "hush-hush" not in path.read_text()


def test_a_failed_delivery_says_why_and_hides_every_part_of_the_url(tmp_path, receiver):
    receiver.num_refusals = 1
    url = receiver.url.replace("127.0.0.1", "us3r-name:pa55-word@127.0.0.1") + "?key=qu3ry-token"

    with pytest.raises(LvmError, match=r"json://\.\.\. .*503.* LVM_ALERT_URL") as refusal:
        alerts.send(Settings(home=tmp_path, alert_url=url), ALERT)

    assert not [part for part in ("s3cret", "us3r", "pa55", "qu3ry") if part in str(refusal.value)]


@pytest.mark.parametrize("url", ["nonsense", "slack://too-short", "nobody-knows://host", "jsons://me:pa[ss@host"])
def test_an_invalid_address_is_refused_without_being_printed(tmp_path, url):
    with pytest.raises(LvmError, match=r"LVM_ALERT_URL .* slack://\.\.\.") as refusal:
        alerts.send(Settings(home=tmp_path, alert_url=url), ALERT)

    assert url not in str(refusal.value)


def test_a_file_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(LvmError, match=r"Not a directory|File exists"):
        alerts.send(Settings(home=tmp_path, alert_url=(tmp_path / "file" / "x").as_uri()), ALERT)


@pytest.mark.parametrize("url", ["file://tmp/alerts.jsonl", "file://host/tmp/alerts.jsonl"])
def test_a_file_without_an_absolute_path_is_refused(tmp_path, url):
    with pytest.raises(LvmError, match="write it with three slashes: file:///PATH"):
        alerts.send(Settings(home=tmp_path, alert_url=url), ALERT)


def test_a_token_before_the_host_of_a_url_is_hidden_and_the_user_of_a_database_is_not(tmp_path):
    settings = Settings(
        home=tmp_path, mlflow_tracking_uri="https://tok3n@mlflow:5000", database_url="postgresql://me@host/lvm"
    )

    assert "tok3n" in alerts.secrets_of(settings)
    assert "me" not in alerts.secrets_of(settings)


def test_without_a_url_the_sentence_says_what_to_set(tmp_path):
    with pytest.raises(LvmError, match="LVM_ALERT_URL is not set"):
        alerts.send(Settings(home=tmp_path), ALERT)


def test_every_secret_of_the_settings_is_hidden(tmp_path):
    settings = Settings(home=tmp_path, alert_url="jsons://host/t0ken", database_url="postgresql://me:pa%24s@host/lvm")

    assert {"t0ken", "pa%24s", "pa$s"} <= alerts.secrets_of(settings)
    assert "lvm" not in alerts.secrets_of(settings), "the name of a database is no secret"


def test_a_bracket_in_a_password_keeps_no_alert_back(tmp_path, receiver):
    settings = Settings(home=tmp_path, alert_url=receiver.url, database_url="postgresql://me:hush[hush@host/lvm")

    alerts.send(settings, replace(ALERT, message="The password hush[hush is wrong."))

    (message,) = receiver.messages
    assert message["message"].startswith("The password *** is wrong.")
