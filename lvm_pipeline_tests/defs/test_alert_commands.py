"""`lvm alerts list` and `ack` on the checks that fail in a home."""

import json

import dagster as dg
import pytest

from lvm_pipeline.defs.failing_checks import failing_checks
from lvm_pipeline.defs.failures import MAX_EXECUTIONS
from lvm_pipeline.defs.launch import open_instance
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


def test_nothing_to_withdraw_is_said_as_it_is(failing, lvm):
    assert lvm("alerts", "ack", "--all", "--remove")[1] == "No check is acknowledged.\n"
    assert "Acknowledged evaluation_report:" in lvm("alerts", "ack", WARNING)[1]
    assert lvm("alerts", "ack", "--all", "--remove")[1].startswith("Withdrew the acknowledgement of evaluation_report:")


def test_the_latest_result_of_every_partition_is_read(tmp_path):
    """More results of other partitions than one query reads are later than the failure of one."""
    check = dg.AssetCheckKey(REPORT, WARNING)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        for partition in ["failing", *map(str, range(MAX_EXECUTIONS + 1))]:
            found = {"asset_key": REPORT, "check_name": WARNING, "passed": partition != "failing", "metadata": {}}
            instance.report_runless_asset_event(dg.AssetCheckEvaluation(**found, partition=partition))

        failing = failing_checks(instance, Settings(home=tmp_path), [check])

    assert [each.name for each in failing] == [f"evaluation_report:{WARNING} [failing]"]
