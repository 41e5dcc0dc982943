"""Promises of findings: a blocking failure stops everything, a warning nothing."""

import json

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, InvariantError, Severity, blocking_failures, raise_on_blocking


def finding(*, passed, severity=Severity.BLOCKING, name="rows_are_whole"):
    return Finding(name=name, passed=passed, severity=severity, message="3 rows are not whole.", observed=3, allowed=0)


def test_only_a_failed_blocking_finding_stops():
    harmless = [finding(passed=True), finding(passed=False, severity=Severity.WARNING)]
    raise_on_blocking(harmless)
    broken = finding(passed=False)

    with pytest.raises(InvariantError) as stop:
        raise_on_blocking(iter([*harmless, broken]))

    assert str(stop.value) == "rows_are_whole: 3 rows are not whole."
    assert stop.value.findings == [*harmless, broken]
    assert isinstance(stop.value, LvmError)
    assert blocking_failures([*harmless, broken]) == [broken]


def test_a_finding_is_plain_json():
    as_json = json.loads(json.dumps(finding(passed=False).as_json()))

    assert as_json["severity"] == "blocking"
    assert (as_json["observed"], as_json["allowed"], as_json["was_checked"]) == (3, 0, True)
