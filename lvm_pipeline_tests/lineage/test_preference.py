"""A whole study on a real MLflow store, judged by simulated raters who are known to be programs."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.preference_study import FIRST, NEITHER, QUESTION, SECOND, read_study
from lvm_pipeline.evaluation.report import read_report
from lvm_pipeline.lineage import preference
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.chat_server import chat_server, completion
from lvm_pipeline_tests.evaluation.test_smoothing import data_of
from lvm_pipeline_tests.lineage.small_trials import OPTIONS, make_data, train
from lvm_pipeline_tests.rescored_here import rescored_here

RATERS = ("ann", "ben", "cleo")
WIN_RATE, TIE_RATE = 0.85, 0.1  # of the polished text over any other
NUM_PAIRS = 8


def writing(body):
    """Write a polished text where there is a draft, a guess where there is none, each another one."""
    data = data_of(body)
    number = re.findall(r"\d+", data["c5"]["text"])[-1]
    return completion(f"A polished text about {number}. [c5]" if "draft" in data else f"A guess after {number}. [c5]")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home with a smoothed trial and an MLflow store of its own."""
    patch = pytest.MonkeyPatch()
    rescored_here(patch)
    patch.setenv("NO_PROXY", "127.0.0.1")
    home = tmp_path_factory.mktemp("preference") / "lvm_home"
    store = {"home": home, "mlflow_tracking_uri": f"sqlite:///{home}/mlflow.db", "device": "cpu"}
    found = Settings(**store, **OPTIONS)
    make_data(found)
    folder = train(found).folder
    lineage.evaluate_trial(found, folder)
    with chat_server(writing) as server:
        asked = Settings(**store, **OPTIONS, chat_url=server.url, chat_model="scripted")
        lineage.smooth_trial(asked, folder, num_targets=24)
    patch.undo()
    return found


@pytest.fixture(scope="module")
def study(settings):
    return lineage.create_study(settings, trial_of(settings), raters=RATERS, num_pairs=NUM_PAIRS, seed=3)


@pytest.fixture
def here(settings, monkeypatch):
    """The settings as the environment of a command."""
    monkeypatch.setenv("LVM_HOME", str(settings.home))
    monkeypatch.setenv("LVM_MLFLOW_TRACKING_URI", settings.mlflow_tracking_uri)


def trial_of(settings):
    return lineage.named_trial(settings, "gru")


def shown(settings, trace_id) -> Any:
    """What a rater can see of an item."""
    trace = mlflow_store.open_client(settings).get_trace(trace_id, display=False)
    return trace.data.spans[0].inputs, trace.data.spans[0].outputs, json.dumps(trace.to_dict())


def answer(settings, study, rater, *, rng):
    """Judge every item of a rater from what is shown alone."""
    from mlflow.entities import AssessmentSource, Feedback
    from mlflow.tracing.client import TracingClient

    client = TracingClient(tracking_uri=settings.mlflow_tracking_uri)
    for trace_id in study.items[rater]:
        _, texts, _ = shown(settings, trace_id)
        best = FIRST if "polished" in texts["A"] else SECOND
        other = SECOND if best == FIRST else FIRST
        chosen = rng.choice([NEITHER, best, other], p=[TIE_RATE, WIN_RATE - TIE_RATE / 2, 1 - WIN_RATE - TIE_RATE / 2])
        source = AssessmentSource(source_type="CODE", source_id=f"simulated {rater}")
        client.log_assessment(trace_id, Feedback(name=QUESTION, value=str(chosen), source=source))
        client.store.set_review_queue_item_status(
            study.queues[rater], item_id=trace_id, status="complete", completed_by=rater
        )


def test_nothing_that_a_rater_sees_tells_which_text_is_which(settings, study):
    for pair, trace_id in zip(study.pairs[:3], study.items["ann"][:3], strict=True):
        passage, texts, everything = shown(settings, trace_id)
        assert passage == {"passage": list(pair.context)}
        assert texts == pair.shown
        assert not re.search("smoothed|decoded|control|treatment|baseline|repeat", everything)
    assert len({item for items in study.items.values() for item in items}) == 3 * len(study.pairs)
    assert read_study(settings.preference_dir / study.study_id) == study


def test_texts_of_another_trial_are_compared_on_the_same_targets_only(settings, monkeypatch):
    folder = trial_of(settings)
    scores = preference._smoothed(folder)
    rows = [each.passage.target_row for each in scores.examples]
    others = [replace(each, passage=replace(each.passage, truth="Of other data.")) for each in scores.examples]

    mixed = replace(scores, examples=(scores.examples[0], *others[1:]))
    monkeypatch.setattr(preference, "_smoothed", lambda _: mixed)
    assert list(preference._of_same_targets(scores.examples, folder)) == rows[:1]
    monkeypatch.setattr(preference, "_smoothed", lambda _: replace(scores, examples=tuple(others)))
    with pytest.raises(LvmError, match="no smoothed texts of the same targets"):
        preference._of_same_targets(scores.examples, folder)


def test_a_study_without_answers_says_so(lvm, here, settings, study):
    code, out, _ = lvm("preference", "status", "--json")
    assert code == 0
    assert [(row["rater"], row["pending"], row["answered"]) for row in json.loads(out)] == [
        (rater, len(study.pairs), 0) for rater in RATERS
    ]

    code, _, err = lvm("preference", "collect")
    assert code == 1
    assert "No rater of the study" in " ".join(err.split())
    assert "Not run. No rater has compared" in (trial_of(settings).path / "report.html").read_text()


def test_simulated_raters_play_a_study_through_and_their_known_preference_is_found(lvm, here, settings, study):
    rng = np.random.default_rng(5)
    for rater in RATERS:
        answer(settings, study, rater, rng=rng)

    code, out, _ = lvm("preference", "collect", "--json")
    scores = json.loads(out)

    assert code == 0
    assert all(row["complete"] == len(study.pairs) for row in json.loads(lvm("preference", "status", "--json")[1]))
    for found in scores["comparisons"]:
        assert found["num_judgements"] == NUM_PAIRS * len(RATERS)
        assert found["win_rate"]["low"] < WIN_RATE < found["win_rate"]["high"]
        assert found["is_above_threshold"] is False  # eight pairs are too few to show it
    assert scores["strengths"][0]["arm"] == "smoothed"
    assert [rater["is_human"] for rater in scores["raters"]] == [False] * 3
    assert [rater["num_repeats"] for rater in scores["raters"]] == [2] * 3
    assert -1 < scores["agreement"] < 1
    report: Any = read_report(trial_of(settings).report_path)
    assert report.preference.study_id == study.study_id
    assert "programs, not people" in (trial_of(settings).path / "report.html").read_text()
    assert lineage.evaluate_trial(settings, trial_of(settings)).preference == report.preference


def test_the_command_names_the_pages_and_the_number_of_judgements_needed(lvm, here, settings, study):
    code, out, _ = lvm("preference", "create", "-a", "gru", "--rater", "dora", "--pairs", 1)
    said = " ".join(out.split())

    assert code == 0
    assert re.search(r"dora: http\S+/#/experiments/\d+/review-queue", said)
    assert re.search(r"each comparison needs \d+ if the true win rate is 85%", said)


@pytest.mark.parametrize("raters", [(), ("--rater", "ann", "--rater", "ann"), ("--rater", " ")])
def test_without_raters_the_error_says_what_is_missing(lvm, here, raters):
    code, _, err = lvm("preference", "create", "-a", "gru", *raters)

    assert code == 1
    assert "name them with --rater" in " ".join(err.split())


def test_a_trial_without_smoothed_texts_is_refused(settings, tmp_path):
    folder = trial_of(settings)
    kept = folder.path / "smoothing.json"
    aside = kept.rename(tmp_path / "smoothing.json")
    try:
        with pytest.raises(LvmError, match="run `lvm smooth --trial"):
            lineage.create_study(settings, folder, raters=["ann"])
    finally:
        aside.rename(kept)
    with pytest.raises(LvmError, match="There is no study nothing"):
        lineage.collect_study(settings, "nothing")
