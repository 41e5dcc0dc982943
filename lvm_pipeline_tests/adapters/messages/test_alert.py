"""Promises of a message: it says what is known and hides what is secret."""

from lvm_pipeline.adapters.messages.alert import Alert, without_secrets


def test_a_message_contains_all_known_fields():
    alert = Alert(
        alert_id="check execution 7",
        happened_at=0.0,
        title="concepts: every_concept_has_a_vector failed",
        message="3 of 480 concepts have no vector.",
        remedy="Encode them.",
        asset="concepts",
        partition="gru",
        check="every_concept_has_a_vector",
        observed=0.99375,
        allowed=1.0,
        dagster_run_id="ab12",
        link="http://127.0.0.1:3000/assets/concepts",
    )

    assert alert.body().splitlines() == [
        "3 of 480 concepts have no vector.",
        "What to do: Encode them.",
        "",
        "asset: concepts",
        "partition: gru",
        "check: every_concept_has_a_vector",
        "observed: 0.99375",
        "allowed: 1",
        "Dagster run: ab12",
        "alert: check execution 7",
        "link: http://127.0.0.1:3000/assets/concepts",
    ]


def test_unknown_fields_are_omitted_but_zero_is_shown():
    body = Alert(alert_id="a", happened_at=0.0, title="t", message="m", observed=0.0).body()

    assert "observed: 0" in body
    assert "partition" not in body


def test_secrets_and_passwords_of_urls_are_hidden():
    text = "postgresql://me:hush@host/db and token-1234 of https://u:p:w@h/x"

    hidden = without_secrets(text, {"token-1234", "db"})

    assert hidden == "postgresql://me:***@host/db and *** of https://u:***@h/x"
