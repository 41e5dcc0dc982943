"""Promises of findings: a blocking failure stops everything, a warning nothing."""

import json

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import (
    Finding,
    Invariant,
    InvariantError,
    Severity,
    blocking_failures,
    declared_in,
    invariant,
    listed,
    raise_on_blocking,
)


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


def test_an_invariant_is_declared_once_beside_its_function():
    @invariant(severity=Severity.WARNING, remedy="Load the missing rows.")
    def rows_are_whole(num_missing):
        """All rows
        were loaded."""
        return rows_are_whole.finding(
            passed=not num_missing, message=f"{num_missing} are missing", observed=num_missing
        )

    assert (rows_are_whole.name, rows_are_whole.meaning) == ("rows_are_whole", "All rows were loaded.")
    assert rows_are_whole(2) == Finding(
        name="rows_are_whole",
        passed=False,
        severity=Severity.WARNING,
        message="2 are missing",
        observed=2.0,
        remedy="Load the missing rows.",
    )
    assert rows_are_whole.finding(passed=False, message="", severity=Severity.BLOCKING).outcome == "failed"
    assert rows_are_whole.not_checked("nobody knows").outcome == "not checked"
    assert declared_in({"other": 3, "this": rows_are_whole, "again": rows_are_whole}) == (rows_are_whole,)


def test_problems_make_a_failure():
    whole = Invariant(name="rows_are_whole", meaning="All rows were loaded.", remedy="Load them.")

    failed, passed = (whole.from_problems(found, otherwise="all there") for found in (["a", "b"], []))

    assert (failed.outcome, failed.message) == ("failed", "a; b")
    assert (passed.outcome, passed.message) == ("passed", "all there")


def test_a_finding_comes_back_from_json():
    found = finding(passed=False)

    assert Finding.from_json({**json.loads(json.dumps(found.as_json())), "outcome": "failed"}) == found


def test_a_list_says_how_many_more_there_are():
    assert listed(range(2)) == "0, 1"
    assert listed([1, 2], 5) == "1, 2 and 3 more"
    assert listed(range(25)).endswith("18, 19 and 5 more")
