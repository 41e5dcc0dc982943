"""A changed table leads, untouched, to a new decision about the champion, or to an alert.

The real daemon with the real definitions on a built-in Postgres of its own; nothing is started by hand once it runs.
"""

import json
import os
import subprocess
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from lvm_pipeline.adapters import databases, embedded_postgres
from lvm_pipeline.adapters.dagster_home import dagster_environment
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.defs.launch import materialise_lineage, open_instance
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline.settings import CHECKOUT_DIR, Settings, settings_environment
from lvm_pipeline.training.trained_model import read_trained_model_info
from lvm_pipeline_tests.adapters.processes import processes_of, wait_until
from lvm_pipeline_tests.defs.source_table import add_articles, execute, fill_source

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.postgres, pytest.mark.timeout(2400)]

PATIENCE_SECONDS = 900
MADE = ("concepts", "sequences", "trained_model", "evaluation_report", "leaderboard", "champion")
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


@pytest.fixture
def settings(open_tmp_path, receiver, monkeypatch):
    """A filled table, a champion's lineage made once, and settings under which all goes on by itself."""
    settings = Settings(
        home=open_tmp_path / "home",
        preset="smoke",
        epochs=1,
        num_threads=1,
        observation_cron="* * * * *",
        retrain_on="new_data",
        retrained_architectures="gru",
        automation_interval_seconds=5,
        alert_url=receiver.url,
    )
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    fill_source(databases.source_url(settings), [12] * 40)
    materialise_lineage(settings, ["gru"])
    yield settings
    for process in processes_of(settings.home):
        if process.name() != "postgres":
            process.kill()
    embedded_postgres.stop(settings.postgres_dir)


@contextmanager
def daemon(settings):
    """Run the daemon, with the code location that it starts, and end both."""
    variables = dagster_environment(settings) | settings_environment(settings)
    variables |= {"PYTHONPATH": str(CHECKOUT_DIR), "PYTHONUNBUFFERED": "1"}
    command = [str(Path(sysconfig.get_path("scripts")) / "dagster-daemon"), "run", "-m", "lvm_pipeline.definitions"]
    log_path = settings.home / "daemon.log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            command, env=os.environ | variables, cwd=CHECKOUT_DIR, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield log_path
        assert child.poll() is None, log_path.read_text()
    finally:
        child.terminate()
        child.wait(timeout=120)


class Follower:
    """What the instance has on record, as a test waits for it."""

    def __init__(self, instance, log_path):
        self.instance, self.log_path = instance, log_path

    def wait_for(self, condition):
        assert wait_until(condition, seconds=PATIENCE_SECONDS), self.log_path.read_text()[-5000:]

    def observations(self):
        return len(self.instance.fetch_observations(dg.AssetKey("cpe_entry"), limit=1000).records)

    def wait_for_looks(self, number):
        """Wait for more looks at the table, and for whatever runs they led to."""
        enough = self.observations() + number
        self.wait_for(lambda: self.observations() >= enough)
        self.wait_for(lambda: all(run.status in FINISHED for run in self.instance.get_runs()))

    def made(self):
        """Run of the latest materialization of every asset."""
        events = {name: self.instance.get_latest_materialization_event(dg.AssetKey(name)) for name in MADE}
        return {name: event.run_id for name, event in events.items()}


def decision(settings):
    return json.loads((settings.reports_dir / "champion.json").read_text())["decision"]


def test_a_changed_table_leads_to_a_new_decision_or_to_one_alert(settings, receiver):
    url = databases.source_url(settings)
    before = read_concepts_metadata(settings.concepts_path)
    with open_instance(settings) as instance, daemon(settings) as log_path:
        follower = Follower(instance, log_path)
        made = follower.made()

        follower.wait_for_looks(1)
        assert follower.made() == made, "equal data triggered something"

        add_articles(url, [12] * 20, seed=1, label="new")
        follower.wait_for(lambda: all(run_id != made[name] for name, run_id in follower.made().items()))
        after = read_sequences_metadata(settings.sequences_path)
        assert read_concepts_metadata(settings.concepts_path).num_articles == before.num_articles + 20
        assert after.concepts_fingerprint != before.fingerprint
        model = read_trained_model_info(settings.models_dir / "gru")
        assert model.fingerprints["sequences"] == after.fingerprint
        report = json.loads((settings.reports_dir / "gru" / "report.json").read_text())
        assert report["fingerprint"] == decision(settings)["fingerprint"] == after.fingerprint
        follower.wait_for_looks(1)

        made, num_messages = follower.made(), len(receiver.messages)
        execute(url, "DELETE FROM cpe_vectors WHERE cpe_id = (SELECT cpe_id FROM cpe_vectors LIMIT 1)")
        follower.wait_for(lambda: len(receiver.messages) > num_messages)
        follower.wait_for_looks(1)
        assert follower.made() == made, "something was made past a failed check"
        check_message(receiver.messages[num_messages:], follower)
        assert "s3cret" not in log_path.read_text()


def check_message(messages, follower):
    """Exactly one message, with all that is known."""
    (message,) = messages
    assert message["title"] == "concepts: every_concept_has_a_vector failed"
    lines = message["message"].splitlines()
    assert "asset: concepts" in lines
    assert "check: every_concept_has_a_vector" in lines
    assert [line for line in lines if line.startswith("observed: ")]
    assert [line for line in lines if line.startswith("allowed: ")]
    page = "http://127.0.0.1:3000/assets/concepts?view=checks&checkDetail=every_concept_has_a_vector"
    assert f"link: {page}" in lines
    (failed,) = follower.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert f"Dagster run: {failed.run_id}" in lines
