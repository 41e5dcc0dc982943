"""Checks of promoted products on their own: by a job or by `lvm verify --products`, and heeded like any other."""

from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline import files
from lvm_pipeline.cli.checking import verified_products
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs.launch import QUIET, open_instance
from lvm_pipeline.defs.schedules import failing_blocking_checks, retraining
from lvm_pipeline_tests.defs.test_data_assets import failed_checks, materialised, refresh

pytestmark = pytest.mark.postgres

FINITE = "vectors_are_finite_and_of_one_width"


def verify(instance, checks=None):
    job = defs().resolve_job_def("verify_data")
    selection = None if checks is None else [dg.AssetCheckKey(dg.AssetKey("concepts"), name) for name in checks]
    if selection is not None:
        job = job.get_subset(asset_selection=set(), asset_check_selection=set(selection))
    return job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)


def spoil(path):
    """Write a NaN into the promoted table, as a failing disk would."""
    table = pq.read_table(path)
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    vectors[3, 0] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    index = table.schema.get_field_index("vector")
    spoiled = table.set_column(index, table.schema.field("vector"), column.cast(table.schema.field("vector").type))
    pq.write_table(spoiled.replace_schema_metadata(pq.read_metadata(path).metadata), path)


def test_checks_run_without_making_the_products_and_a_failure_stops_what_follows(
    make_settings, source, instance_on_disk
):
    settings = make_settings()
    assert refresh(instance_on_disk).success
    before = settings.concepts_path.stat().st_mtime_ns

    result = verify(instance_on_disk)

    assert result.success
    assert materialised(result) == {}
    assert {"vectors_are_finite_and_of_one_width", "window_count_is_exact"} <= {
        each.check_name for each in result.get_asset_check_evaluations()
    }
    assert settings.concepts_path.stat().st_mtime_ns == before
    assert failing_blocking_checks(instance_on_disk) == []
    one = verify(instance_on_disk, [FINITE])
    assert [each.check_name for each in one.get_asset_check_evaluations()] == [FINITE]
    a_failure_stops_the_retraining(settings, instance_on_disk)


def a_failure_stops_the_retraining(settings, instance):
    files.write_json(settings.reports_dir / "champion.json", {"name": "gru small"})
    spoil(settings.concepts_path)

    result = verify(instance, [FINITE])

    assert failed_checks(result).keys() == {FINITE}
    assert failing_blocking_checks(instance) == [FINITE]
    moment = datetime(2026, 11, 1, 3, tzinfo=UTC)
    (skipped,) = retraining(settings)(dg.build_schedule_context(instance=instance, scheduled_execution_time=moment))
    assert FINITE in skipped.skip_message


def test_the_command_records_its_results_for_alerts_and_gates(make_settings, source, instance):
    settings = make_settings()
    assert refresh(instance).success
    assert verified_products(settings).passed
    assert not settings.dagster_dir.exists(), "Dagster was never used here"
    with open_instance(settings):
        pass
    spoil(settings.concepts_path)

    verification = verified_products(settings)

    assert not verification.passed
    with open_instance(settings) as own:
        assert failing_blocking_checks(own) == [FINITE]
