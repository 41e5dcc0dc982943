"""Findings become check results with numbers, severities and words."""

import dagster as dg
import pytest

from lvm_pipeline.defs.checks import (
    check_result,
    check_results,
    check_specs,
    checked_asset,
    lvm_errors_as_failures,
    not_checked,
)
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding, Invariant, Severity

INVARIANTS = [
    Invariant(name="cpe_ids_are_unique", meaning="No two rows have the same id.", remedy="Delete the copies."),
    Invariant(name="tmd_codes_are_assigned", severity=Severity.WARNING, meaning="There are codes.", remedy="Add them."),
]


def finding(name, *, passed=True, severity=Severity.BLOCKING, **others):
    return Finding(name=name, passed=passed, severity=severity, message=f"{name} was looked at", **others)


def test_numbers_and_evidence_are_in_the_metadata():
    result = check_result(finding("x", passed=False, observed=3, allowed=0, details={"ids": ["a", "b"]}))

    assert (result.passed, result.severity, result.description) == (
        False,
        dg.AssetCheckSeverity.ERROR,
        "x was looked at",
    )
    assert result.metadata["observed"] == dg.MetadataValue.float(3.0)
    assert result.metadata["allowed"] == dg.MetadataValue.float(0.0)
    assert result.metadata["details"] == dg.MetadataValue.json({"ids": ["a", "b"]})


def test_a_failed_check_says_what_to_do():
    metadata = [check_result(finding("x", passed=passed, remedy="Fix x.")).metadata for passed in (False, True)]

    assert metadata[0]["remedy"] == dg.MetadataValue.text("Fix x.")
    assert "remedy" not in metadata[1]


def test_warnings_are_warnings():
    assert check_result(finding("x", passed=False, severity=Severity.WARNING)).severity == dg.AssetCheckSeverity.WARN


def test_a_check_that_was_not_made_has_no_result():
    findings = [INVARIANTS[0].not_checked("no encoder"), INVARIANTS[1].finding(passed=True, message="")]

    assert [result.check_name for result in check_results(findings, INVARIANTS)] == ["tmd_codes_are_assigned"]
    assert not_checked(findings).value == "- cpe_ids_are_unique: no encoder"


def test_dagster_does_not_warn_of_a_check_that_was_not_made(caplog):
    @checked_asset(INVARIANTS, deps=[], group_name="data", kinds=set())
    def made():
        yield from check_results(
            [INVARIANTS[0].not_checked("no encoder"), INVARIANTS[1].finding(passed=True, message="")], INVARIANTS
        )
        yield dg.MaterializeResult()

    @dg.asset(deps=[made])
    def downstream():
        pass

    assert dg.materialize([made, downstream]).success
    assert "emitted no result" not in caplog.text


def test_only_blocking_invariants_block():
    specs = check_specs("concepts", INVARIANTS)

    assert {spec.name: spec.blocking for spec in specs} == {"cpe_ids_are_unique": True, "tmd_codes_are_assigned": False}
    assert specs[0].description == "No two rows have the same id. If it fails: Delete the copies."


def test_an_invariant_without_a_result_stops_the_asset():
    with pytest.raises(dg.Failure) as raised:
        list(check_results([finding("cpe_ids_are_unique")], INVARIANTS))

    assert "tmd_codes_are_assigned" in raised.value.description


def test_a_broken_product_may_leave_later_invariants_open():
    results = list(check_results([finding("cpe_ids_are_unique", passed=False)], INVARIANTS))

    assert [result.check_name for result in results] == ["cpe_ids_are_unique"]


def test_lvm_errors_become_dagster_failures():
    with pytest.raises(dg.Failure) as raised, lvm_errors_as_failures():
        raise LvmError("The table is empty; fill it.")

    assert raised.value.description == "The table is empty; fill it."
    assert not raised.value.allow_retries
