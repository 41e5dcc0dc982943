"""The trials that the demo trains beside the lineage, on small data."""

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.lineage.demo import DemoExperiments, sized_for_demo
from lvm_pipeline.settings import Settings, with_options
from lvm_pipeline_tests.lineage.test_plan_run import settings  # noqa: F401 - a fixture


@pytest.mark.slow
def test_the_demo_runs_two_planned_trials_a_strategy_and_an_ensemble_and_leaves_the_plain_trial_the_latest(
    settings,  # noqa: F811
):
    bars = []

    def task(description):
        bars.append(description)
        return lambda *_: None

    experiments = DemoExperiments(settings, ["gru"], task, lambda week: None)

    experiments.before_training()
    plain = lineage.train_trial(settings, lineage.training_config_of(settings, "gru"))
    lineage.evaluate_architecture(settings, "gru")
    experiments.before_choice()

    assert experiments.study_page is not None
    assert experiments.study_page.is_file()
    rows = {row["trial_id"]: row for row in lineage.plan_rows(settings, week=1)}
    assert sum(row["status"] == "done" for row in rows.values()) == 2
    assert lineage.latest_trial(settings, "gru").trial_id == plain.folder.trial_id
    board = lineage.build_leaderboard(settings)
    ensemble = next(row for row in board.models if row.architecture == "ensemble")
    assert {row.architecture for row in board.models} == {"gru", "ensemble"}
    assert any("auxiliary" in row.name for row in board.models)
    assert (settings.trials_dir / ensemble.name / "report.html").is_file()
    assert bars == ["plan, week 1, preset smoke", "trained_model gru auxiliary_targets", "ensemble"]


def test_the_demo_is_small_unless_a_preset_is_set(tmp_path):
    plain = Settings(home=tmp_path)

    demo = sized_for_demo(plain)
    assert (demo.preset, demo.epochs) == ("smoke", 5)
    assert sized_for_demo(with_options(plain, {"epochs": 2})).epochs == 2
    chosen = with_options(plain, {"preset": "small"})
    assert sized_for_demo(chosen) is chosen
