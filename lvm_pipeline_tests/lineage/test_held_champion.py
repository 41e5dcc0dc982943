"""A person may go back to another trial: it stays the champion until somebody lets the rule decide again."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_registry, mlflow_store
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.cli.commands import app
from lvm_pipeline.errors import LvmError
from lvm_pipeline.experiments import selection
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.settings import Settings, settings_environment, with_options
from lvm_pipeline.training import trained_model
from lvm_pipeline_tests.lineage.small_trials import OPTIONS, make_data
from lvm_pipeline_tests.rescored_here import rescored_here


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Every comparison promotes the challenger, on a real store; `lvm` in this process has these settings."""
    rescored_here(monkeypatch)
    decide = selection.decide
    monkeypatch.setattr(selection, "decide", lambda *args, **kwargs: replace(decide(*args, **kwargs), promote=True))
    home = tmp_path / "home"
    found = Settings(home=home, device="cpu", mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db", **OPTIONS)
    make_data(found)
    for name, value in settings_environment(found).items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def two_trials(settings):
    """The trial that the rule made champion, and another one."""
    trained = []
    for seed in (0, 1):
        seeded = with_options(settings, {"seed": seed})
        config, tracker = lineage.training_config_of(seeded), MlflowTracker(seeded, system_metrics=False)
        trained.append(lineage.train_trial(seeded, config, tracker=tracker).folder)
        lineage.evaluate_trial(seeded, trained[-1])
    chosen = lineage.choose_champion(settings)["name"]
    other = next(folder.trial_id for folder in trained if folder.trial_id != chosen)
    return chosen, other


def test_a_choice_stands_though_no_trial_has_a_report_for_the_leaderboard(settings, caplog):
    tracker = MlflowTracker(settings, system_metrics=False)
    trained = lineage.train_trial(settings, lineage.training_config_of(settings), tracker=tracker).folder

    assert lineage.choose_champion(settings)["name"] == trained.trial_id
    assert champion_in_registry(settings) == trained.trial_id
    assert "The leaderboard was not written: There is no report" in caplog.text


def lvm_champion(*options):
    return CliRunner().invoke(app, ["champion", *options])


def champion_in_registry(settings):
    return mlflow_registry.champion(settings).tags["trial_id"]


def test_a_held_champion_stays_until_the_rule_is_asked_again(settings, two_trials):
    by_rule, other = two_trials

    assert f"Champion: {other}" in lvm_champion("--hold", other).output
    assert champion_in_registry(settings) == other
    assert lineage.read_champion(settings)["before"] == by_rule
    assert lineage.read_champion(settings)["test"]["cosine"] is not None

    make_data(settings, seed=1)  # new data, and a trial of them
    lineage.train_trial(settings, lineage.training_config_of(settings), again=True)
    lineage.evaluate_architecture(settings, "gru")
    kept = lineage.choose_champion(settings)

    assert (kept["name"], kept["decision"]["promote"]) == (other, False)
    assert f"{other} is held as champion by a person" in kept["decision"]["reason"]
    assert kept["decision"]["reason"] in (settings.reports_dir / "leaderboard.html").read_text()
    assert champion_in_registry(settings) == other


def test_the_rule_decides_again_if_it_is_asked_or_somebody_moved_the_alias(settings, two_trials):
    by_rule, other = two_trials
    version = mlflow_registry.champion(settings).version
    lvm_champion("--hold", other)

    assert f"Champion: {by_rule}" in lvm_champion("--choose").output
    assert champion_in_registry(settings) == by_rule
    assert not lineage.read_champion(settings)["decision"]["is_held"]

    lvm_champion("--hold", other)
    mlflow_store.open_client(settings).set_registered_model_alias("lvm", "champion", version)

    assert lineage.choose_champion(settings)["name"] == by_rule


@pytest.fixture
def retrained(settings, two_trials):
    """The champion's trial, trained again on new data and not compared yet, and the fingerprint of the champion."""
    chosen, _ = two_trials
    before = trained_model.weights_fingerprint(trial_folder(settings, chosen).model_dir)
    make_data(settings, seed=1)
    seeded = with_options(settings, {"seed": 0 if "-s0-" in chosen else 1})
    tracker = MlflowTracker(seeded, system_metrics=False)
    trained = lineage.train_trial(seeded, lineage.training_config_of(seeded), tracker=tracker, again=True).folder
    assert trained.trial_id == chosen
    lineage.evaluate_trial(settings, trained)
    return trained, before


def test_the_champions_weights_are_found_though_its_trial_was_trained_again(settings, retrained):
    trained, before = retrained
    assert trained_model.weights_fingerprint(trained.model_dir) != before

    champions = lineage.champions_trial(settings)

    assert champions.trial_id == trained.trial_id
    assert trained_model.weights_fingerprint(champions.model_dir) == before
    assert not any(row["champion"] for row in lineage.trial_rows(settings)), "no trial has the champion's weights now"
    assert lineage.verify_all_products(settings).champion == trained.trial_id

    mlflow_store.open_client(settings).delete_registered_model_alias("lvm", "champion")
    with pytest.raises(LvmError, match=r"weights of the champion, gru.* `lvm champion --choose`"):
        lineage.champions_trial(settings)
    assert lineage.verify_all_products(settings).champion is None


def test_an_earlier_champion_is_held_by_its_version(settings, retrained):
    trained, before = retrained
    assert lineage.choose_champion(settings)["version"] == "2"

    output = lvm_champion("--hold", "1").output

    assert f"Champion: {trained.trial_id}, version 1 in MLflow" in output
    assert mlflow_registry.champion(settings).tags["model_fingerprint"] == before
    assert trained_model.weights_fingerprint(lineage.champions_trial(settings).model_dir) == before
    assert lineage.choose_champion(settings)["version"] == "1", "no stage replaces it"
    with pytest.raises(LvmError, match="no version 7 of the model lvm; the versions are: 1, 2"):
        lineage.hold_champion(settings, "7")


def test_the_hold_ends_if_somebody_moves_the_alias_to_another_version_of_the_trial(settings, retrained):
    assert lineage.choose_champion(settings)["version"] == "2"
    lvm_champion("--hold", "1")
    mlflow_store.open_client(settings).set_registered_model_alias("lvm", "champion", "2")

    assert lineage.choose_champion(settings)["version"] == "2"


def test_what_cannot_be_champion_is_not_held(settings, two_trials, monkeypatch):
    by_rule, other = two_trials
    assert lvm_champion("--hold", other, "--choose").exit_code == 2
    with pytest.raises(LvmError, match="There is no trained trial 'nothing'"):
        lineage.hold_champion(settings, "nothing")
    info = trained_model.read_trained_model_info
    monkeypatch.setattr(trained_model, "read_trained_model_info", lambda path: replace(info(path), is_leaking=True))
    with pytest.raises(LvmError, match="leaking sequences and cannot be champion"):
        lineage.hold_champion(settings, other)
    oracle = {"is_leaking": True, "is_oracle": True}
    monkeypatch.setattr(trained_model, "read_trained_model_info", lambda path: replace(info(path), **oracle))
    with pytest.raises(LvmError, match="reads the TMD code of its own target"):
        lineage.hold_champion(settings, other)
    monkeypatch.setattr(
        trained_model, "read_trained_model_info", lambda path: replace(info(path), space_id="elsewhere")
    )
    with pytest.raises(LvmError, match="vectors of the space elsewhere"):
        lineage.hold_champion(settings, other)

    assert champion_in_registry(settings) == by_rule
