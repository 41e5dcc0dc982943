"""The asset of an ensemble: made of the leaderboard's best, checked, tracked and compared with the champion."""

import dagster as dg
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs import ensemble as ensemble_module
from lvm_pipeline.defs.launch import QUIET
from lvm_pipeline.settings import with_options
from lvm_pipeline_tests.defs.test_trained_model import failure_of, with_products
from lvm_pipeline_tests.rescored_here import rescored_here

pytestmark = pytest.mark.postgres


@pytest.fixture
def settings(make_settings, monkeypatch):
    """Settings with promoted data products and three evaluated trials."""
    rescored_here(monkeypatch)
    settings = with_products(make_settings(), article_lengths=[12] * 30)
    for architecture in ("gru", "lstm", "s4"):
        config = lineage.training_config_of(with_options(settings, {"epochs": 1}), architecture)
        lineage.evaluate_trial(settings, lineage.train_trial(settings, config).folder)
    return settings


def combine(instance, *assets, **options):
    return (
        defs()
        .resolve_job_def("combine_best")
        .execute_in_process(
            instance=instance,
            run_config={**QUIET, "ops": {"ensemble": {"config": options}}},
            asset_selection=[dg.AssetKey(asset) for asset in assets or ("ensemble",)],
            raise_on_error=False,
        )
    )


def test_the_best_trials_become_one_checked_and_tracked_model_that_the_champion_rule_sees(settings, instance):
    result = combine(instance, "ensemble", "champion", top=2)

    assert result.success, failure_of(result)
    event, champion = result.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    info = lineage.named_trial(settings, metadata["trial_id"]).info()
    assert [member.trial_id for member in info.members] == sorted(lineage.top_trials(settings, 2))
    assert metadata["cosine"] == pytest.approx(info.score, abs=1e-4)
    assert champion.materialization.metadata["challenger"].value
    checks = {evaluation.check_name for evaluation in result.get_asset_check_evaluations()}
    assert checks == {invariant.name for invariant in ensemble_module.INVARIANTS}
    job = defs().resolve_job_def("verify_ensemble")
    checked = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
    assert checked.success, failure_of(checked)
    assert {evaluation.check_name for evaluation in checked.get_asset_check_evaluations()} >= {
        invariant.name for invariant in lineage.INVARIANTS["trained_model"]
    }
    assert not checked.get_asset_materialization_events()

    run = mlflow_store.open_client(settings).get_run(metadata["mlflow_run"].rsplit("/", 1)[-1])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["validation_cosine"] == pytest.approx(info.score)
    assert run.outputs.model_outputs
    assert set(run.data.tags["members"].split(", ")) == {member.trial_id for member in info.members}


def test_members_can_be_named_and_unlike_ones_are_refused_in_one_sentence(settings, instance):
    named = combine(instance, members=["gru", "s4"], name="pair", weights="validation")
    assert named.success, failure_of(named)
    (event,) = named.get_asset_materialization_events()
    assert event.materialization.metadata["trial_id"].value.startswith("ensemble-pair-s0-")

    refused = combine(instance, members=["gru"])
    assert "2 to 5 members, got 1" in failure_of(refused)
