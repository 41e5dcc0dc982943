"""The trials of the plan in Dagster: one partition each, and a job that runs a week of them in one process."""

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs.launch import QUIET
from lvm_pipeline_tests.defs.test_trained_model import failure_of
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

pytestmark = pytest.mark.postgres


@pytest.fixture
def settings(make_settings):
    found = make_settings(model={"hidden_dim": 16})
    write_synthetic_concepts(found.concepts_path, article_lengths=[12] * 40, kind="rotation")
    write_synthetic_sequences(found.concepts_path, found.sequences_path)
    return found


def materialise(instance, trial_id):
    instance.add_dynamic_partitions("trial", [trial_id])
    asset = defs().resolve_assets_def("trial")
    job = defs().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        run_config=QUIET,
        partition_key=trial_id,
        asset_selection=[asset.key],
        raise_on_error=False,
    )


def test_a_trial_is_a_partition_and_a_week_of_the_plan_a_job(settings, instance):
    first = lineage.plan_rows(settings, week=1)[0]["trial_id"]

    result = materialise(instance, first)

    assert result.success, failure_of(result)
    (event,) = result.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    outcome = lineage.plan_rows(settings, week=1)[0]
    assert (event.partition, metadata["trial_id"], outcome["status"]) == (first, first, "done")
    assert metadata["week"] == 1
    assert metadata["gain_low"] <= metadata["gain_mean"]
    run = mlflow_store.open_client(settings).get_run(metadata["mlflow_run"].rsplit("/", 1)[-1])
    experiment = mlflow_store.open_client(settings).get_experiment(run.info.experiment_id)
    assert (run.info.status, experiment.name) == ("FINISHED", "plan week 1")

    week = defs().resolve_job_def("plan_week_1")
    config = {**QUIET, "ops": {"week_1": {"config": {"budget_seconds": 0.0}}}}
    result = week.execute_in_process(instance=instance, run_config=config)

    assert result.success
    (materialised,) = [event for event in result.all_events if event.is_step_materialization]
    assert materialised.partition == first
    assert instance.get_dynamic_partitions("trial") == [first]
    assert (settings.reports_dir / "study.html").is_file()


def test_a_trial_that_is_not_in_the_plan_is_refused(settings, instance):
    result = materialise(instance, "lstm-smoke-s0-00000000")

    assert not result.success
    assert "The plan has no trial 'lstm-smoke-s0-00000000'" in failure_of(result)
