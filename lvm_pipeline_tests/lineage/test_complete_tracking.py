"""Models that MLflow lacks are logged by the next training, once each."""

import pytest

from lvm_pipeline import files
from lvm_pipeline.lineage.models import complete_tracking
from lvm_pipeline.lineage.trials import read_tracking
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.lineage.small_trials import OPTIONS, make_data, train
from lvm_pipeline_tests.lineage.test_trials import Broken
from lvm_pipeline_tests.rescored_here import rescored_here


@pytest.fixture
def settings(tmp_path, monkeypatch):
    rescored_here(monkeypatch)
    found = Settings(home=tmp_path / "home", device="cpu", **OPTIONS)
    make_data(found)
    return found


@pytest.fixture
def logged(monkeypatch):
    """The models that are logged."""
    found = []
    monkeypatch.setattr("lvm_pipeline.adapters.mlflow_tracker.log_model_to_run", lambda *given: found.append(given[2]))
    return found


def test_a_model_is_left_to_the_training_that_is_logging_it(settings, logged):
    folder = train(settings, tracker=Broken()).folder

    with folder.locked():
        complete_tracking(settings)
        assert logged == []
        complete_tracking(settings, own=folder)

    assert logged == [folder.model_dir]
    assert read_tracking(folder.model_dir)["is_complete"]


def test_two_processes_do_not_log_one_model(settings, logged, caplog):
    folder = train(settings, tracker=Broken()).folder

    with files.only_one(folder.path / ".upload.lock", ""):
        complete_tracking(settings)

    assert logged == []
    assert "another process is logging it now" in caplog.text
    complete_tracking(settings)
    assert logged == [folder.model_dir]


def test_the_earlier_model_of_a_trial_is_logged_before_it_is_trained_again(settings, logged):
    folder = train(settings, tracker=Broken()).folder

    train(settings, tracker=Broken(), again=True)

    assert logged == [folder.model_dir]
