"""`lvm alerts list` and `ack` on the checks that fail in a home."""

import json
import uuid

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._utils.error import SerializableErrorInfo

from lvm_pipeline.adapters.acknowledged import read_acknowledged
from lvm_pipeline.defs.failing_checks import failing_checks
from lvm_pipeline.defs.failures import MAX_EXECUTIONS, find_changes
from lvm_pipeline.defs.launch import open_instance
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

pytestmark = pytest.mark.postgres

REPORT = dg.AssetKey("evaluation_report")
QUIET, WARNING = "beats_best_baseline", "inference_takes_under_50_ms"


@pytest.fixture
def failing(make_settings):
    """A home in which a warning and a check that is set to blocking fail."""
    settings = make_settings(alert_level="failure", alert_quiet_checks=QUIET)
    severities = {QUIET: dg.AssetCheckSeverity.ERROR, WARNING: dg.AssetCheckSeverity.WARN}
    with open_instance(settings) as instance:
        for name, severity in severities.items():
            found = {"asset_key": REPORT, "check_name": name, "passed": False, "metadata": {}, "severity": severity}
            instance.report_runless_asset_event(dg.AssetCheckEvaluation(**found))
    return settings


def test_the_list_says_which_alerts_are_sent(failing, lvm):
    code, out, _ = lvm("alerts", "list", "--json")

    sent = {row["check"].partition(":")[2].partition(" [")[0]: row["sent"] for row in json.loads(out)}
    assert code == 0
    assert (sent[QUIET], sent[WARNING]) == (True, False), "quiet checks are quiet as warnings, and a level hides others"
    lines = lvm("alerts", "list")[1].splitlines()
    assert lines[0::2] == [f"evaluation_report:{QUIET}: failure", f"evaluation_report:{WARNING}: warning, not sent"]


def test_nothing_to_withdraw_is_said_as_it_is(failing, lvm):
    assert lvm("alerts", "ack", "--all", "--remove")[1] == "No check is acknowledged.\n"
    assert "Acknowledged evaluation_report:" in lvm("alerts", "ack", WARNING)[1]
    assert lvm("alerts", "ack", "--all", "--remove")[1].startswith("Withdrew the acknowledgement of evaluation_report:")


@pytest.fixture
def many_results(tmp_path):
    """An instance in which a check fails for one partition, and then passes for more than one query reads."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        for partition in ["failing", *map(str, range(MAX_EXECUTIONS + 1))]:
            found = {"asset_key": REPORT, "check_name": WARNING, "passed": partition != "failing", "metadata": {}}
            instance.report_runless_asset_event(dg.AssetCheckEvaluation(**found, partition=partition))
        yield instance


def test_the_latest_result_of_every_partition_is_read(many_results, tmp_path):
    failing = failing_checks(many_results, Settings(home=tmp_path), [dg.AssetCheckKey(REPORT, WARNING)])

    assert [each.name for each in failing] == [f"evaluation_report:{WARNING} [failing]"]


def test_no_failure_is_lost_among_many_results_since_the_last_tick(many_results):
    found = list(find_changes(many_results, [dg.AssetCheckKey(REPORT, WARNING)], since=0.0, ui_address=""))

    assert [alert.partition for alert in found if not alert.is_over] == ["failing"]


def test_a_damaged_file_of_acknowledgements_is_named(tmp_path):
    settings = Settings(home=tmp_path)
    settings.dagster_dir.mkdir()
    for text in ("", "[]", '{"concepts:codes": {"level": "warning"}}'):
        (settings.dagster_dir / "acknowledged_alerts.json").write_text(text)
        with pytest.raises(LvmError, match=r"acknowledged_alerts\.json cannot be read .*delete it and"):
            read_acknowledged(settings)


def test_the_alert_of_a_run_that_could_not_be_started_says_why():
    error = SerializableErrorInfo("dagster.UnreachableError: The code server did not answer in 60 seconds.\n", [], None)
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.DagsterRun(job_name="train_architecture", run_id=str(uuid.uuid4()))
        instance.add_run(run)
        instance.report_engine_event("Caught an unrecoverable error", run, EngineEventData.engine_error(error))
        instance.report_run_failed(run)
        (alert,) = find_changes(instance, [], since=0.0, ui_address="")

    assert alert.message == "It could not be started: The code server did not answer in 60 seconds. Launch it again."
