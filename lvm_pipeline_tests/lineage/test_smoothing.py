"""Smoothing of a trial: from the command line to its folder and its report."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.evaluation.report import read_report
from lvm_pipeline.lineage.trials import write_tracking
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.chat_server import chat_server, completion
from lvm_pipeline_tests.evaluation.test_smoothing import data_of
from lvm_pipeline_tests.lineage.small_trials import OPTIONS, make_data, train
from lvm_pipeline_tests.rescored_here import rescored_here


@pytest.fixture
def settings(tmp_path, monkeypatch):
    rescored_here(monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Settings(home=tmp_path / "lvm_home", device="cpu", **OPTIONS)
    make_data(found)
    return found


@pytest.fixture
def trial(settings):
    folder = train(settings).folder
    lineage.evaluate_trial(settings, folder)
    return folder


def smoothing_in(trial) -> Any:
    return read_report(trial.report_path).smoothing


def test_a_trial_is_smoothed_on_the_command_line(lvm, trial, monkeypatch):
    with chat_server(lambda _: completion("A fluent passage of some words. [c5]")) as server:
        monkeypatch.setenv("LVM_CHAT_URL", server.url)
        monkeypatch.setenv("LVM_CHAT_MODEL", "scripted")
        code, out, _ = lvm("smooth", "-a", "gru", "--targets", 3, "--json")
        again, *_ = lvm("smooth", "-a", "gru", "--targets", 3)

    scores = json.loads(out)
    assert (code, again) == (0, 0)
    assert [arm["num_texts"] for arm in scores["arms"]] == [3, 3, 3]
    assert len(server.requests) == 6  # the second call is answered from the cache
    assert smoothing_in(trial).language_model == "scripted"
    assert "A fluent passage" in (trial.path / "report.html").read_text()


@pytest.mark.slow
def test_text_scores_are_in_the_mlflow_run_of_the_trial_and_a_store_that_fails_costs_nothing(settings, caplog):
    tracker = MlflowTracker(settings, system_metrics=False)
    folder = train(settings, tracker=tracker).folder
    report = lineage.evaluate_trial(settings, folder)
    client = mlflow_store.open_client(settings)

    metrics = client.get_run(tracker.run_id).data.metrics
    assert metrics["text_accuracy"] == pytest.approx(report.text.accuracy)
    assert metrics["text_accuracy_ceiling"] == pytest.approx(report.text.preferred_scores.ceiling.token_f1)
    assert metrics["text_bleu"] == pytest.approx(report.text.preferred_scores.prediction.bleu)
    with chat_server(lambda _: completion("A passage. [c1]")) as server:
        asked = Settings(**{**settings.model_dump(), "chat_url": server.url, "chat_model": "scripted"})
        lineage.smooth_trial(asked, folder, num_targets=2)
    assert client.get_run(tracker.run_id).data.metrics["smoothing_texts"] == 2

    client.delete_run(tracker.run_id)
    write_tracking(folder.model_dir, SimpleNamespace(run_id="0" * 32, run_url=None), is_complete=True)
    lineage.evaluate_trial(settings, folder)
    assert "are not in MLflow" in caplog.text


def test_the_sample_is_of_validation_targets_and_the_decoder_never_answers_with_them(settings, trial):
    with chat_server(lambda _: completion("A passage. [c1]")) as server:
        asked = Settings(**{**settings.model_dump(), "chat_url": server.url, "chat_model": "scripted"})
        one, same, other = (lineage.smooth_trial(asked, trial, num_targets=5, seed=seed) for seed in (0, 0, 1))

    rows = [[each.passage.target_row for each in scores.examples] for scores in (one, same, other)]
    assert rows[0] == rows[1] != rows[2]
    for example in one.examples:
        number = example.passage.target_row
        assert example.passage.truth.endswith(f"says {number}.")
        assert example.passage.context[-1].endswith(f"says {number - 1}.")
        assert len(example.passage.context) == 5
        assert example.passage.decoded not in {example.passage.truth, *example.passage.context}
    assert data_of(server.requests[0])["c5"]["codes"] is not None


def test_evaluating_again_keeps_the_section(settings, trial):
    with chat_server(lambda _: completion("A passage. [c1]")) as server:
        asked = Settings(**{**settings.model_dump(), "chat_url": server.url, "chat_model": "scripted"})
        lineage.smooth_trial(asked, trial, num_targets=2)

    lineage.evaluate_trial(settings, trial)

    assert smoothing_in(trial).num_targets == 2


def test_without_a_server_the_error_says_what_is_missing_and_the_report_is_left(lvm, trial, monkeypatch):
    code, _, err = lvm("smooth", "-a", "gru")
    assert code == 1
    assert "set LVM_CHAT_URL and LVM_CHAT_MODEL" in " ".join(err.split())

    monkeypatch.setenv("LVM_CHAT_URL", f"http://127.0.0.1:{free_port()}/v1")
    monkeypatch.setenv("LVM_CHAT_MODEL", "scripted")
    code, _, err = lvm("smooth", "-a", "gru", "--decoder", "vec2text")
    assert code == 1
    assert "vec2text does not decode vectors of space" in " ".join(err.split())
    code, _, err = lvm("smooth", "-a", "gru", "--targets", 2)
    assert code == 1
    assert "gave no answer: no connection to the server" in " ".join(err.split())

    assert smoothing_in(trial).why_no_answers
    assert "Not run. The language model scripted gave no answer" in (trial.path / "report.html").read_text()


def test_a_report_of_earlier_weights_gets_no_section_of_the_present_ones(settings, trial):
    before = trial.report_path.read_bytes()
    make_data(settings, seed=1)
    train(settings)
    with chat_server(lambda _: completion("A passage. [c1]")) as server:
        asked = Settings(**{**settings.model_dump(), "chat_url": server.url, "chat_model": "scripted"})
        lineage.smooth_trial(asked, trial, num_targets=2)
    lineage.make_learning_curve(settings, trial)

    assert trial.report_path.read_bytes() == before
