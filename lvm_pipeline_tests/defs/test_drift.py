"""Drift through Dagster: numbers that it plots, warnings that stop nothing, a reference that outlives a refresh."""

import dagster as dg
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.files import link_or_copy
from lvm_pipeline_tests.defs.source_table import execute
from lvm_pipeline_tests.defs.test_data_assets import materialised, refresh

pytestmark = pytest.mark.postgres

NAMES = {invariant.name for invariant in lineage.INVARIANTS["drift"]}


def drift_checks(result):
    return {each.check_name: each for each in result.get_asset_check_evaluations() if each.check_name in NAMES}


def numbers(evaluation):
    return {
        name: value.value
        for name, value in evaluation.metadata.items()
        if isinstance(value, dg.FloatMetadataValue | dg.IntMetadataValue)
    }


def test_without_a_champion_drift_is_shown_as_not_checked(make_settings, source, instance):
    settings = make_settings()

    result = refresh(instance)

    assert result.success
    assert drift_checks(result) == {}
    found, report_path = lineage.check_drift(settings)
    assert not found.was_compared
    assert "Result: **drift was not checked**" in report_path.read_text()


def test_drift_warns_in_numbers_and_stops_nothing(make_settings, source, instance):
    settings = make_settings()
    refresh(instance)
    link_or_copy(settings.concepts_path, settings.champion_concepts_path)
    reference = read_concepts_metadata(settings.concepts_path).fingerprint
    assert all(evaluation.passed for evaluation in drift_checks(refresh(instance)).values())
    execute(
        source.url, "DELETE FROM cpe_vectors WHERE cpe_id IN (SELECT cpe_id FROM cpe_entry WHERE sequence_index > 5)"
    )
    execute(source.url, "DELETE FROM cpe_entry WHERE sequence_index > 5")

    result = refresh(instance)

    assert result.success
    assert materialised(result).keys() == {"concepts", "sequences"}
    checks = drift_checks(result)
    assert not checks["num_concepts_is_as_before"].passed
    lengths = checks["article_lengths_are_as_before"]
    assert not lengths.passed
    assert lengths.severity == dg.AssetCheckSeverity.WARN
    assert numbers(lengths).keys() >= {"observed", "allowed", "p_value", "p_value_of_all_checks"}
    assert numbers(lengths)["observed"] == 1.0, "no article is as long as any was before"
    assert read_concepts_metadata(settings.champion_concepts_path).fingerprint == reference
    found, report_path = lineage.check_drift(settings)
    assert found.has_drifted
    assert "article_lengths_are_as_before" in report_path.read_text()
