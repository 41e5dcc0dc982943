"""What people delete in MLflow is restored, or one sentence says how to mend it: on a real store."""

import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_mending, mlflow_registry, mlflow_store
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker, log_scores_to_run
from lvm_pipeline.cli.commands import app
from lvm_pipeline.errors import LvmError
from lvm_pipeline.experiments import selection
from lvm_pipeline.settings import Settings, settings_environment
from lvm_pipeline_tests.lineage.small_trials import OPTIONS, make_data
from lvm_pipeline_tests.rescored_here import rescored_here

ALIAS = ("lvm", "champion")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A home with data and an MLflow store of its own."""
    home = tmp_path_factory.mktemp("deleted") / "home"
    settings = Settings(home=home, device="cpu", mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db", **OPTIONS)
    make_data(settings)
    return settings


@pytest.fixture
def settings(store, monkeypatch):
    """Every comparison promotes, and a run of `lvm` in this process has these settings."""
    rescored_here(monkeypatch)
    decide = selection.decide
    monkeypatch.setattr(selection, "decide", lambda *args, **kwargs: replace(decide(*args, **kwargs), promote=True))
    for name, value in settings_environment(store).items():
        monkeypatch.setenv(name, value)
    return store


@pytest.fixture
def client(settings):
    return mlflow_store.open_client(settings)


@pytest.fixture
def champion(settings):
    """A champion that was trained, tracked and promoted, for each test."""
    tracker = MlflowTracker(settings, system_metrics=False)
    trained = lineage.train_trial(settings, lineage.training_config_of(settings), tracker=tracker)
    lineage.evaluate_trial(settings, trained.folder)
    lineage.choose_champion(settings, ignore_incumbent=True)
    return mlflow_registry.champion(settings)


def choose_anew():
    done = CliRunner().invoke(app, ["champion", "--choose-anew"], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_runs_are_grouped_by_tags_and_say_their_verdict(settings, client, champion):
    run = client.get_run(champion.mlflow_run_id)

    tags = run.data.tags
    expected = {"architecture": "gru", "strategy": "plain", "seed": "0", "trial_id": champion.tags["trial_id"]}
    assert {name: tags[name] for name in expected} == expected
    report = settings.reports_dir / "gru" / "report.json"
    assert f"Cosine {lineage.evaluate_architecture(settings, 'gru').cosine:.4f}; " in tags["mlflow.note.content"]
    link = settings.page_url(settings.trials_dir / tags["trial_id"] / "report.html")
    assert f"[report]({link})" in tags["mlflow.note.content"]
    assert report.is_file()
    assert "model.hidden_dim=8" in tags["mlflow.note.content"]


@pytest.mark.parametrize("what", ["files", "model"])
def test_a_champion_whose_files_or_model_are_gone_is_chosen_anew(settings, client, champion, what):
    if what == "files":
        shutil.rmtree(champion.model_dir.parent)
    else:
        client.delete_logged_model(champion.model_dir.parts[-3])
    with pytest.raises(LvmError, match="lvm champion --choose-anew"):
        mlflow_registry.champion(settings)
    with pytest.raises(LvmError, match="lvm champion --choose-anew"):
        lineage.choose_champion(settings)

    assert champion.tags["trial_id"] in choose_anew()

    chosen = mlflow_registry.champion(settings)
    assert (chosen.model_dir / "model.safetensors").is_file()
    assert int(chosen.version) > int(champion.version)
    version = client.get_model_version_by_alias(*ALIAS)
    assert chosen.model_dir.parts[-3] in version.source


def test_choosing_anew_leaves_the_champion_where_no_model_can_be_promoted(settings, champion, monkeypatch):
    assert lineage.choose_champion(settings, ignore_incumbent=True)["before"] == champion.tags["trial_id"]
    decide = selection.decide
    monkeypatch.setattr(selection, "decide", lambda *args, **kwargs: replace(decide(*args, **kwargs), promote=False))
    choose_anew()
    assert mlflow_registry.champion(settings).version == champion.version
    assert lineage.read_champion(settings)["name"] == champion.tags["trial_id"]

    settings.sequences_path.rename(settings.sequences_path.with_suffix(".away"))
    try:
        done = CliRunner().invoke(app, ["champion", "--choose-anew"])
    finally:
        settings.sequences_path.with_suffix(".away").rename(settings.sequences_path)
    assert done.exit_code != 0
    assert mlflow_registry.champion(settings).version == champion.version


def test_a_version_that_is_promoted_again_says_why_it_is_now(settings, client, champion):
    again = {**champion.tags, "validation_cosine": "0.7"}
    options = {"mlflow_run_id": champion.mlflow_run_id, "tags": again, "description": "Better than the other one."}

    promoted = mlflow_registry.promote(settings, **options)

    version = client.get_model_version_by_alias(*ALIAS)
    assert promoted.version == str(version.version) == champion.version
    assert (version.description, version.tags) == (options["description"], again)


@pytest.mark.parametrize("what", ["alias", "version", "registered model"])
def test_a_deleted_alias_or_version_is_chosen_again(settings, client, champion, what):
    if what == "alias":
        client.delete_registered_model_alias(*ALIAS)
    elif what == "version":
        client.delete_model_version("lvm", champion.version)
    else:
        client.delete_registered_model("lvm")
    assert mlflow_registry.champion(settings) is None

    lineage.choose_champion(settings)

    assert mlflow_registry.champion(settings).tags["trial_id"] == champion.tags["trial_id"]


def test_a_deleted_run_is_restored_when_its_model_is_promoted(settings, client, champion, caplog):
    client.delete_run(champion.mlflow_run_id)
    with pytest.raises(LvmError, match=r"The MLflow run or model no longer exists: .*[^.]; restore it .* --again"):
        log_scores_to_run(settings, champion.mlflow_run_id, {"text_accuracy": 0.5})

    choose_anew()

    assert client.get_run(champion.mlflow_run_id).info.lifecycle_stage == "active"
    assert f"The MLflow run {champion.mlflow_run_id} was deleted: restored it." in caplog.text


def test_a_run_that_is_gone_for_good_names_the_command_that_makes_it_again(settings, champion):
    with pytest.raises(LvmError, match="was deleted for good; train the model again: `lvm train -a gru --again`"):
        mlflow_mending.hold_model(settings, "0" * 32, champion.model_dir, train_again="lvm train -a gru --again")


def test_a_deleted_experiment_is_restored_with_its_runs_and_says_so(settings, client, champion, caplog):
    experiment_id = mlflow_store.experiment_id(settings)
    client.delete_experiment(experiment_id)

    tracker = MlflowTracker(settings, system_metrics=False)
    tracker.start("after", params={}, tags={}, fingerprints={})
    tracker.finish("FINISHED")

    assert "The experiment lvm had been deleted in MLflow; it was restored" in caplog.text
    experiment = client.get_experiment(experiment_id)
    assert (experiment.lifecycle_stage, "restored" in experiment.tags["mlflow.note.content"]) == ("active", True)
    assert client.get_run(champion.mlflow_run_id).info.lifecycle_stage == "active"
    assert client.get_run(tracker.run_id).info.experiment_id == experiment_id


def test_an_experiment_deleted_under_a_champion_is_restored_when_it_is_chosen(settings, client, champion):
    client.delete_experiment(mlflow_store.experiment_id(settings))

    choose_anew()

    assert client.get_run(champion.mlflow_run_id).info.lifecycle_stage == "active"
