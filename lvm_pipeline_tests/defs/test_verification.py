"""Checks of promoted products on their own: by a job or by `lvm verify --products`, and heeded like any other."""

import json
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline import files, lineage
from lvm_pipeline.cli.checking import verified_products
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs.launch import QUIET, open_instance
from lvm_pipeline.defs.record import record_verification
from lvm_pipeline.defs.schedules import failing_blocking_checks, retraining, verifications
from lvm_pipeline.lineage.data import Verification
from lvm_pipeline.lineage.products import ProductVerification
from lvm_pipeline.lineage.trials import TrialFolder
from lvm_pipeline_tests.defs.test_data_assets import failed_checks, materialised, refresh
from lvm_pipeline_tests.defs.test_trained_model import failure_of, with_products

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


def tick(schedule, instance):
    """Evaluate a schedule as the daemon does."""
    moment = datetime(2026, 11, 1, 3, tzinfo=UTC)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=moment, repository_def=defs().get_repository_def()
    )
    return schedule.evaluate_tick(context)


def promote(settings, architecture, trial_id="trial"):
    files.write_json(settings.reports_dir / "champion.json", {"name": trial_id, "architecture": architecture})


def test_the_champions_model_is_checked_on_schedule_though_another_was_trained_later(make_settings, instance_on_disk):
    settings = with_products(make_settings(), article_lengths=[12] * 30)
    champion = lineage.train_trial(settings, lineage.training_config_of(settings, "gru")).folder
    _, schedule, _ = verifications(settings)
    assert "no champion" in tick(schedule, instance_on_disk).skip_message
    promote(settings, "gru", champion.trial_id)
    later = settings.model_copy(update={"seed": 1})
    lineage.train_trial(later, lineage.training_config_of(later, "gru"))

    result = verify_as_asked(tick(schedule, instance_on_disk), instance_on_disk)

    assert result.success, failure_of(result)
    names = {each.check_name for each in result.get_asset_check_evaluations()}
    assert names == {each.name for each in lineage.INVARIANTS["trained_model"]}
    record = champion.model_dir / "trained_model.json"
    files.write_json(record, {**json.loads(record.read_text()), "score": 0.99})
    result = verify_as_asked(tick(schedule, instance_on_disk), instance_on_disk)
    assert "checkpoint_reproduces_its_score" in failed_checks(result)


def verify_as_asked(ticked, instance):
    (request,) = ticked.run_requests
    job = defs().resolve_job_def("verify_model")
    return job.execute_in_process(instance=instance, run_config=QUIET, tags=request.tags, raise_on_error=False)


@pytest.mark.parametrize("architecture", ["ensemble", "linear"])
def test_a_champion_that_is_no_partition_is_checked_on_schedule_if_an_ensemble(
    make_settings, instance_on_disk, architecture, monkeypatch
):
    settings = make_settings()
    monkeypatch.setattr(TrialFolder, "info", lambda _folder: "a record")
    promote(settings, architecture)

    _, of_architectures, of_ensembles = verifications(settings)
    ticked = tick(of_architectures, instance_on_disk)

    assert not ticked.run_requests
    assert architecture in ticked.skip_message
    assert len(tick(of_ensembles, instance_on_disk).run_requests) == (architecture == "ensemble")


@pytest.mark.parametrize(
    ("index", "architecture", "asset", "partition"),
    [(0, "gru", "trained_model", "gru"), (1, "ensemble", "ensemble", None), (2, "linear", None, None)],
)
def test_results_of_the_champions_checks_are_recorded_under_its_asset(
    make_settings, index, architecture, asset, partition
):
    settings = make_settings()
    promote(settings, architecture)
    invariant = lineage.INVARIANTS["trained_model"][index]  # tests of a session share the storage of Dagster
    finding = invariant.finding(passed=False, message="it does not")
    empty = Verification(findings=[], report={}, report_paths=(settings.home, settings.home))
    with open_instance(settings):
        pass

    record_verification(settings, ProductVerification(tables=empty, drift=[], model=[finding], champion="trial"))

    keys = [dg.AssetCheckKey(dg.AssetKey(each), invariant.name) for each in ("trained_model", "ensemble")]
    with open_instance(settings) as instance:
        history = [instance.event_log_storage.get_asset_check_execution_history(key, limit=9) for key in keys]
    found = [record.evaluation for records in history for record in records]
    expected = [] if asset is None else [(asset, invariant.name, partition)]
    assert [(each.asset_key.to_user_string(), each.check_name, each.partition) for each in found] == expected


def test_a_retraining_without_a_champion_is_skipped_once_while_a_check_fails(make_settings, source, instance_on_disk):
    settings = make_settings()
    assert refresh(instance_on_disk).success
    spoil(settings.concepts_path)
    verify(instance_on_disk, [FINITE])

    ticked = tick(retraining(settings), instance_on_disk)

    assert "no champion" in ticked.skip_message
