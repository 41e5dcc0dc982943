"""Running the plan: real small trainings, trials that fail or are refused, killed plans, the study report."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.errors import LvmError
from lvm_pipeline.experiments import plan, trial_scores
from lvm_pipeline.experiments.plan import Share
from lvm_pipeline.experiments.trial_scores import read_outcome, write_outcome
from lvm_pipeline.lineage import plan_queue, plan_run
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.settings import Settings, settings_environment, with_options
from lvm_pipeline.training.progress import StoppedError
from lvm_pipeline_tests.lineage.small_trials import make_data
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import write_table
from lvm_pipeline_tests.training.test_loop import Recorder
from lvm_pipeline_tests.worded import with_columns

PATIENCE_SECONDS = 200


@pytest.fixture
def settings(tmp_path, monkeypatch):
    rescored_here(monkeypatch)
    found = Settings(home=tmp_path / "home", device="cpu", preset="smoke", epochs=1, num_threads=1)
    make_data(found)
    return found


@pytest.fixture
def small_plan(monkeypatch):
    """Three trials of week 1, one of week 2."""
    shares = (Share(architecture="gru", week=1, count=2), Share(architecture="lstm", week=1, count=1))
    monkeypatch.setattr(plan, "SHARES", (*shares, Share(architecture="s4", week=2, count=1)))


def share(monkeypatch, **options):
    shares = (Share(architecture="gru", week=1, count=1, options=options), Share(architecture="lstm", week=1, count=1))
    monkeypatch.setattr(plan, "SHARES", shares)


def run(settings, **options):
    return lineage.run_plan(settings, **{"week": 1, "tracker_for": lambda week: None, **options})


def statuses(settings, **options):
    return [row["status"] for row in lineage.plan_rows(settings, **options)]


def test_week_5_says_where_all_trials_before_it_have_failed(settings, monkeypatch):
    monkeypatch.setattr(plan_queue, "not_attempted", lambda *_: [])
    with pytest.raises(LvmError, match="and none of their trials is done on these data"):
        plan_queue.TrialQueue(settings, plan.LAST_WEEK, None)


def test_a_week_is_run_once_and_new_data_make_it_stale(settings, small_plan):
    seen = []
    first = run(settings, on_trial=lambda outcome, done, total, *, is_new: seen.append((done, total, is_new)))
    second = run(settings)

    assert [(ended.num_new, ended.num_left, ended.count("done")) for ended in (first, second)] == [(3, 0, 3), (0, 0, 3)]
    assert seen == [(1, 3, True), (2, 3, True), (3, 3, True)]
    assert statuses(settings, week=1) == ["done"] * 3
    assert statuses(settings)[:4] == ["done", "done", "done", "planned"]
    assert statuses(with_options(settings, {"seed": 7}), week=1) == ["planned"] * 3

    make_data(settings, seed=3)
    assert statuses(settings, week=1) == ["stale"] * 3
    assert run(settings, budget_seconds=0).num_left == 3
    assert run(settings).num_new == 3


def test_new_codes_make_those_trials_of_the_plan_stale_that_read_them(settings, monkeypatch):
    share(monkeypatch, strategy="tmd")
    run(settings)
    assert statuses(settings, week=1) == ["done"] * 2

    table = pq.read_table(settings.concepts_path)
    codes = pa.array([(row + 3) % 16 for row in range(table.num_rows)], pa.int16())
    write_table(with_columns(table, domain=codes), settings.concepts_path)

    assert statuses(settings, week=1) == ["stale", "done"]
    assert (run(settings).num_new, statuses(settings, week=1)) == (1, ["done"] * 2)


def test_scores_of_a_trial_are_those_of_its_report(settings, small_plan):
    outcome = run(settings).outcomes[0]
    report = lineage.evaluate_trial(settings, lineage.named_trial(settings, outcome.trial_id))

    assert outcome.scores.cosine == pytest.approx(report.cosine)
    assert (outcome.scores.best_baseline, outcome.scores.gain) == (report.best_baseline, report.gain)
    assert outcome.scores.mrr == pytest.approx(report.retrieval["earlier_rows_of_article"].mrr)
    assert sum(outcome.scores.target_counts) == report.counts.targets
    assert sum(outcome.scores.cosine_sums) / report.counts.targets == pytest.approx(report.cosine)
    assert 0 <= outcome.overhead_seconds < outcome.seconds


def test_every_trial_of_a_week_is_tracked_in_its_own_run(settings, small_plan):
    trackers = []

    def tracker_for(week):
        trackers.append((week, Recorder()))
        return trackers[-1][1]

    run(settings, tracker_for=tracker_for)

    assert [week for week, _ in trackers] == [1, 1, 1]
    assert all(tracker.events[0] == "start" and tracker.events[-1] == "FINISHED" for _, tracker in trackers)


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"strategy": "progressive"}, "refused", "starts with 1,000 concepts, but the train split has"),
        ({"objective": "no_such_loss"}, "refused", "no_such_loss"),
        ({"epochs": 4, "learning_rate": 1e38, "batch_size": 20}, "failed", "the loss at step"),
    ],
)
def test_a_trial_that_cannot_be_trained_is_recorded_and_the_plan_goes_on(
    settings, monkeypatch, options, status, reason
):
    share(monkeypatch, **options)

    bad, good = run(settings).outcomes

    assert (bad.status, good.status) == (status, "done")
    assert reason in bad.reason
    assert statuses(settings, week=1) == [status, "done"]
    assert run(settings).num_new == 1, "a trial that did not end is tried again"


def test_an_unexpected_error_is_recorded_too(settings, monkeypatch):
    share(monkeypatch)
    train_trial = plan_run.train_trial

    def breaks(settings, config, **options):
        if config.architecture == "gru":
            raise RuntimeError("out of memory")
        return train_trial(settings, config, **options)

    monkeypatch.setattr(plan_run, "train_trial", breaks)

    assert [(each.status, each.reason) for each in run(settings).outcomes] == [
        ("failed", "RuntimeError: out of memory"),
        ("done", None),
    ]


def test_what_concerns_every_trial_stops_the_plan_at_the_first(settings, small_plan):
    seen = []
    away = with_options(settings, {"mlflow_tracking_uri": f"http://127.0.0.1:{free_port()}"})

    with pytest.raises(LvmError, match="No MLflow server answers"):
        run(
            away,
            tracker_for=lambda week: lineage.plan_tracker(away, week),
            on_trial=lambda outcome, *_, is_new: seen.append(outcome),
        )

    assert seen == []
    assert statuses(settings, week=1) == ["planned"] * 3


def test_what_the_plan_does_not_have_is_refused(settings, small_plan):
    with pytest.raises(LvmError, match="no week 9"):
        run(settings, week=9)
    with pytest.raises(LvmError, match="no trial 'gru-none'"):
        run(settings, trial_ids=["gru-none"])
    with pytest.raises(LvmError, match="4 of their trials have not been run"):
        run(settings, week=5)


def test_week_5_combines_and_refines_the_best_of_the_weeks_before(lvm_home, embedded_server, small_plan, monkeypatch):
    monkeypatch.setattr(plan, "NUM_REFINEMENTS", 3)
    rescored_here(monkeypatch)
    settings = Settings(home=lvm_home, device="cpu", preset="smoke", epochs=1, num_threads=1)
    make_data(settings)
    assert statuses(settings, week=5) == ["waiting"] * 8
    run(settings)
    run(settings, week=2)
    rows = lineage.plan_rows(settings, week=5)
    assert [row["status"] for row in rows] == ["planned"] * (len(rows) - 3) + ["waiting"] * 3

    combined = [row["trial_id"] for row in rows if row["architecture"] == "ensemble"]
    first = run(settings, week=5, budget_seconds=0)
    assert (first.num_new, first.num_left) == (0, len(rows))
    ended = run(settings, week=5)

    assert {outcome.trial_id: outcome.status for outcome in ended.outcomes[: len(combined)]} == dict.fromkeys(
        combined, "done"
    )
    refined = ended.outcomes[len(combined) :]
    assert [outcome.status for outcome in refined] == ["done"] * 3
    assert len({outcome.trial_id for outcome in refined}) == 3
    assert {"learning_rate", "weight_decay", "correction_learning_rate_factor"} <= set(refined[0].options)
    assert len(lineage.named_trial(settings, combined[0]).info().members) == 3
    assert statuses(settings, week=5) == ["done"] * len(rows)
    assert run(settings, week=5).num_new == 0
    (settings.trials_dir / refined[1].trial_id / "outcome.json").unlink()
    assert [each.trial_id for each in run(settings, week=5).outcomes] == [each.trial_id for each in ended.outcomes]

    study, (html_path, *_) = lineage.write_study(settings)
    assert [row.trial_id for row in study.refinements] == [outcome.trial_id for outcome in refined]
    assert "Refinement of the best config" in html_path.read_text()


def test_a_refinement_that_is_stopped_early_is_recorded_and_not_run_again(settings, small_plan, monkeypatch):
    def stops(*_, **__):
        raise StoppedError("after epoch 3 its cosine was worse than the median of earlier trials")

    monkeypatch.setattr(plan_run, "train_trial", stops)

    assert {(each.status, each.reason[:15]) for each in run(settings).outcomes} == {("stopped", "after epoch 3 i")}
    assert statuses(settings, week=1) == ["stopped"] * 3
    assert run(settings).num_new == 0


PROGRAM = """
import pytest
from lvm_pipeline import lineage
from lvm_pipeline.experiments import plan
from lvm_pipeline.experiments.plan import Share
from lvm_pipeline.settings import load_settings
from lvm_pipeline_tests.rescored_here import rescored_here
rescored_here(pytest.MonkeyPatch())
plan.SHARES = (Share(architecture="gru", week=1, count=2),)
lineage.run_plan(load_settings(), week=1, tracker_for=lambda week: None)
"""


def test_a_killed_plan_resumes_in_the_middle_of_the_trial_it_was_in(settings, monkeypatch):
    monkeypatch.setattr(plan, "SHARES", (Share(architecture="gru", week=1, count=2),))
    settings = with_options(settings, {"epochs": 10, "patience": 10, "checkpoint_seconds": 0.0, "batch_size": 40})
    first, second = (row["trial_id"] for row in lineage.plan_rows(settings, week=1))
    checkpoint = settings.trials_dir / second / "checkpoint" / "checkpoint.safetensors"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=os.environ | settings_environment(settings))
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not checkpoint.exists():
            assert process.poll() is None, "the plan ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert statuses(settings, week=1) == ["done", "planned"]

    recorder = Recorder()
    ended = run(settings, tracker_for=lambda week: recorder)

    assert [outcome.trial_id for outcome in ended.outcomes] == [first, second]
    assert ended.num_new == 1
    assert recorder.tags["is_resumed"] == "true"
    assert statuses(settings, week=1) == ["done", "done"]


class Table(HTMLParser):
    """Counts the rows and links of a page, and its requests to others."""

    rows = outside = 0

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        self.outside += any(name in ("src", "href") and "//" in (value or "") for name, value in attrs)


def test_the_study_report_has_every_trial_and_fetches_nothing(settings, small_plan, monkeypatch):
    run(settings)
    study, (html_path, json_path, csv_path) = lineage.write_study(settings)
    page, table = html_path.read_text(), Table()
    table.feed(page)

    assert [row.status for row in study.rows][:3] == ["done"] * 3
    assert [row.scores.cosine for row in study.done] == sorted((row.scores.cosine for row in study.done), reverse=True)
    assert study.done[0].to_best.mean == 0
    assert table.outside == 0
    assert all(row.trial_id in page for row in study.rows)
    assert "hold for all trials at once" in page
    assert table.rows >= len(study.rows) + len(study.groups)
    values = json.loads(json_path.read_text())
    assert [row["trial_id"] for row in values["rows"]] == [row.trial_id for row in study.rows]
    assert values["rows"][0]["corrected_gain"]["low"] <= values["rows"][0]["corrected_gain"]["mean"]
    lines = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert [line["status"] for line in lines] == [row.status for row in study.rows]
    assert float(lines[0]["cosine"]) == study.done[0].scores.cosine
    assert json.loads(lines[0]["overrides"]) == study.done[0].overrides


def test_trials_that_other_code_scored_are_scored_again_before_they_are_compared(settings, small_plan, monkeypatch):
    run(settings)
    before, _ = lineage.write_study(settings)
    row = before.done[-1]
    folder = trial_folder(settings, row.trial_id)
    outcome = read_outcome(folder.path)
    harder = replace(outcome.scores, best_baseline="copy_last", gain=Interval(9, 9, 9), scored_by="0.0.1+other")
    write_outcome(folder.path, replace(outcome, scores=harder))

    after, _ = lineage.write_study(settings)
    monkeypatch.setattr(trial_scores, "score_trial", None)  # what is up to date is not scored
    lineage.write_study(settings)

    found = next(each for each in after.rows if each.trial_id == row.trial_id).scores
    assert (found.best_baseline, found.gain) == (row.scores.best_baseline, row.scores.gain)
    assert read_outcome(folder.path).scores == found


def test_a_trial_that_cannot_be_scored_again_is_stale_and_the_others_are_reported(settings, small_plan, caplog):
    outcomes = run(settings).outcomes
    for outcome in outcomes:
        write_outcome(
            trial_folder(settings, outcome.trial_id).path,
            replace(outcome, scores=replace(outcome.scores, scored_by="0.0.1+other")),
        )
    path = trial_folder(settings, outcomes[0].trial_id).model_dir / "trained_model.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "num_params": values["num_params"] + 1}))

    study, (html_path, *_) = lineage.write_study(settings)

    stale = next(each for each in study.rows if each.trial_id == outcomes[0].trial_id)
    assert (stale.status, stale.scores) == ("stale", None)
    assert "train the model again" in stale.reason
    assert {row.trial_id for row in study.done} == {outcome.trial_id for outcome in outcomes[1:]}
    assert f"{stale.trial_id} cannot be scored again" in caplog.text
    assert stale.trial_id in html_path.read_text()


def test_a_study_without_any_trial_says_so(settings, small_plan):
    study, (html_path, *_) = lineage.write_study(settings)

    assert study.done == []
    assert "None of the 19 trials is done." in html_path.read_text()
