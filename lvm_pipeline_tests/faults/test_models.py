"""Faults F8 to F15, F20 and F21, in weights, scores, pools and the choice of a champion, each put in for real.

As in `test_source`, each can fail: `mutations.OF_MODELS` neuters one guard for each.

| fault | guard that is neutered | what goes red |
|---|---|---|
| F8 | `invariants.checkpoint_reproduces_its_score` passes | test_f08_weights_that_do_not_give_their_score |
| F8 | `trained_model._refuse_other_class` refuses nothing | test_f08_another_class |
| F8 | `checked.checkpoint_reproduces_its_score` passes | test_f08_changed_code |
| F9 | `invariants.prediction_is_not_the_mean_vector` passes | test_f09 |
| F10 | `evaluate.beats_best_baseline` passes | test_f10 |
| F11 | `retrieval._rows_with_equal_vectors` finds none | test_f11_duplicates |
| F11 | `evaluate.pool_is_declared_and_clean` passes | test_f11_context_rows |
| F11 | `leaderboard._why_left_out` leaves none out | test_f11_pools_of_two_sizes |
| F12 | `known_answers.Answer.is_right` compares nothing | test_f12 |
| F13 | `predictions.SelectionMetric.is_better` takes the last epoch | test_f13 |
| F14 | `invariants.no_objective_term_dominates` passes | test_f14 |
| F15 | `loop.preset_has_its_declared_size` passes | test_f15_a_false_size |
| F15 | `load_architecture` compares no names | test_f15_a_false_name |
| F20 | `baseline_scores.fit_baselines` leaves the linear forecast out | test_f20 |
| F21 | `champion.corrected_gain` corrects for one candidate | test_f21 |
"""

import dataclasses
import re

import numpy as np
import pytest

from lvm_pipeline.architectures import lstm
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.leaderboard import LeftOut, leaderboard
from lvm_pipeline.evaluation.report import read_report
from lvm_pipeline.experiments.selection import select_champion
from lvm_pipeline.training import loop, objectives
from lvm_pipeline.training.config import TrainingConfig, training_config
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline_tests.faults import mutations, runs
from lvm_pipeline_tests.faults.mutations import OF_MODELS, goes_unseen
from lvm_pipeline_tests.faults.runs import assert_stopped, assert_warned
from lvm_pipeline_tests.measures.known_answers import known_answers

pytestmark = pytest.mark.postgres


# F8: another model loads the checkpoint, keys and shapes fit.


def test_f08_weights_that_do_not_give_their_score_are_not_promoted(unharmed, home, monkeypatch):
    save = loop.save_trained_model

    def save_other_weights(path, weights, info):
        turned = {name: tensor.roll(1, 0) if tensor.dim() == 2 else tensor for name, tensor in weights.items()}
        save(path, turned, info)

    monkeypatch.setattr(loop, "save_trained_model", save_other_weights)
    before = (home.models_dir / runs.ARCHITECTURE / "model.safetensors").read_bytes()

    run = runs.train(home)

    naming = ("training recorded 0.", "the saved weights give")
    assert_stopped(run, unharmed, at="trained_model", by="checkpoint_reproduces_its_score", naming=naming)
    assert (home.models_dir / runs.ARCHITECTURE / "model.safetensors").read_bytes() == before


def test_f08_another_class_is_not_loaded(unharmed, home, monkeypatch):
    monkeypatch.setattr(lstm, "LstmLayers", mutations.Backwards)

    run = runs.evaluate(home)

    assert run.failed_step == "evaluation_report"
    assert "LstmLayers" in run.sentence
    assert "would now be a" in run.sentence
    assert run.materialised == set()


def test_f08_changed_code_under_the_same_name_is_found_by_its_score(unharmed, home, monkeypatch):
    def forward(self, states, at=None):
        mixed = self.layers(states)[0].flip(-1)
        return mixed if at is None else mixed[at]

    monkeypatch.setattr(lstm.LstmLayers, "forward", forward)

    run = runs.evaluate(home)

    by = "checkpoint_reproduces_its_score"
    assert not run.checks[by].passed
    assert run.checks[by].asset_key.to_user_string() == "evaluation_report"
    assert by in run.sentence
    assert run.materialised == set()


# F9: collapse to the mean vector.


def test_f09_a_model_that_predicts_the_mean_vector_is_not_promoted(unharmed, home, monkeypatch):
    def alike(vectors):
        vectors += 1.0  # noise around one direction: the mean vector scores high and is all that can be learned
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    runs.promote_synthetic(home, kind="noise", change=alike)
    mutations.with_model(monkeypatch, head="none", dropout=0.0)

    run = runs.train(home)

    by = "prediction_is_not_the_mean_vector"
    assert_stopped(run, unharmed, at="trained_model", by=by, naming=("cosine to the mean train vector is 0.9",))
    details = run.checks[by].metadata["details"].value
    assert details["prediction_variance"] < 0.1 * details["target_variance"]


# F10: no trivial baselines beside the model.


def test_f10_a_model_below_the_best_baseline_is_reported_and_not_promoted(unharmed, home):
    """A rotation is predicted perfectly by a regression, and by no model that was trained for a moment."""
    run = runs.evaluate(home)

    gain = run.checks["beats_best_baseline"]
    assert not gain.passed
    assert gain.severity.value == "WARN"
    exact = r"(ridge|ridge_residual|linear_forecast)"  # all three are, so rounding decides which is best
    assert re.match(rf"gain in cosine over the best baseline, {exact}: -0\.", gain.description)
    assert "articles" in gain.description
    report = read_report(home.reports_dir / runs.ARCHITECTURE / "report.json")
    assert report.gain.high < 0
    assert set(report.baselines) >= {"global_mean", "copy_last", "context_mean", "ridge", "ridge_residual"}
    decision = select_champion(
        {runs.ARCHITECTURE: home.models_dir / runs.ARCHITECTURE},
        incumbent_dir=None,
        concepts_path=home.concepts_path,
        sequences_path=home.sequences_path,
        vectors_dir=home.vectors_dir,
        device="cpu",
        num_threads=1,
    ).decision
    assert not decision.promote


# F11: the pool.


def test_f11_duplicates_in_the_pool_are_named(unharmed, home):
    def doubled(vectors):
        vectors[1] = vectors[0]
        starts = np.cumsum(runs.LENGTHS)[:-1]
        vectors[starts + 1] = vectors[starts]
        return vectors

    runs.promote_synthetic(home, change=doubled)

    run = runs.train(home)

    naming = ("rows whose vector is in the pool before (", "concepts of the scored split")
    assert_stopped(run, unharmed, at="evaluation_report", by="pool_is_declared_and_clean", naming=naming)


def test_f11_context_rows_among_the_candidates_are_named(unharmed, home, monkeypatch):
    target = "lvm_pipeline.evaluation.evaluate.primary_exclusion"
    monkeypatch.setattr(target, lambda targets: "context_rows")
    articles = home.model_copy(update={"mode": "articles"})

    run = runs.train(articles)

    naming = ("targets with a context row among their candidates", "without context_rows")
    assert_stopped(run, unharmed, at="evaluation_report", by="pool_is_declared_and_clean", naming=naming)


def test_f11_pools_of_two_sizes_never_stand_in_one_leaderboard(unharmed, home):
    report = read_report(home.reports_dir / runs.ARCHITECTURE / "report.json")
    shrunk = dataclasses.replace(
        report, name="shrunk", pool=dataclasses.replace(report.pool, size=9, fingerprint="0" * 64)
    )

    board = leaderboard([report, report, shrunk])

    assert board.left_out == (LeftOut(name="shrunk", reason="scored with another pool (9 concepts, 000000000000)"),)
    assert report.pool.size > 9


# F12: a diagnostic that is wrong.


def test_f12_a_wrong_diagnostic_does_not_give_the_known_answers(monkeypatch):
    assert failures_of(known_answers()) == []
    for diagnostic, wrong in mutations.WRONG_DIAGNOSTICS.items():
        with monkeypatch.context() as patch:
            patch.setattr(diagnostic, wrong)
            assert failures_of(known_answers()) != []


def failures_of(answers):
    return [answer.what for answer in answers if not answer.is_right()]


# F13: the checkpoint is chosen by the loss.


def test_f13_the_checkpoint_is_chosen_by_the_metric_and_not_by_the_loss(home, tmp_path):
    runs.promote_synthetic(home, kind="noise")
    data = load_training_data(home.concepts_path, home.sequences_path, home.vectors_dir)
    options = {"preset": "smoke", "epochs": 6, "patience": 6, "learning_rate": 0.02, "num_threads": 1}

    info = loop.train(TrainingConfig(**options), data, output_dir=tmp_path / "model").info

    losses = [epoch["train_loss"] for epoch in info.history[1:]]
    cosines = [epoch["validation_cosine"] for epoch in info.history]
    assert losses[-1] == min(losses) < losses[0]  # the loss says: take the last
    assert cosines[-1] < max(cosines)  # and the metric that matters has fallen meanwhile
    assert info.best_epoch == int(np.argmax(cosines))
    assert info.score == max(cosines)
    with pytest.raises(LvmError, match=r"selection_metric: input should be 'cosine', .* got 'loss'"):
        training_config({**options, "selection_metric": "loss"})


# F14: a contrastive loss is added unscaled.


def test_f14_an_unscaled_contrastive_term_is_a_warning(unharmed, home, monkeypatch):
    mixed = home.model_copy(update={"objective": "mse + infonce"})
    honest = runs.run_job(mixed, "train_architecture", assets=("trained_model",), partition=runs.ARCHITECTURE)
    assert "no_objective_term_dominates" in honest.passed
    monkeypatch.setattr(objectives, "OBJECTIVES", {"mse": mutations.raw_mse, "infonce": mutations.raw_infonce})
    monkeypatch.setattr(objectives.SumOfTerms, "scaled_by", lambda self, values: self)

    run = runs.train(mixed)

    assert_warned(run, honest, by="no_objective_term_dominates", naming=("infonce: 9", "after epoch"))
    assert "trained_model" in run.materialised


# F15: declarations that are not true.


def test_f15_a_false_size_is_refused_before_it_costs_a_training(unharmed, home, monkeypatch):
    presets = dict(lstm.ARCHITECTURE.presets)
    true = presets["smoke"].num_params
    presets["smoke"] = dataclasses.replace(presets["smoke"], num_params=1_300_000)
    mutations.declare(monkeypatch, presets=presets)
    monkeypatch.setattr(loop._Training, "run", lambda *_: pytest.fail("it trained"))

    run = runs.train(home)

    naming = ("lstm smoke declares 1,300,000 parameters", f"has {true:,}")
    assert_stopped(run, unharmed, at="trained_model", by="preset_has_its_declared_size", naming=naming)


def test_f15_a_false_name_is_refused(unharmed, home, monkeypatch):
    mutations.declare(monkeypatch, name="mamba2")

    run = runs.train(home)

    assert "module lstm declares the architecture 'mamba2'" in run.sentence
    assert run.materialised == set()


# F20: the best baseline is missing.


def test_f20_a_model_without_more_than_the_linear_forecast_has_no_gain(unharmed, home):
    """Half of the directions keep to the article, half are noise: only weights for each direction see that."""
    runs.promote_synthetic(home, change=mutations.half_of_the_directions_keep)
    barely_trained = home.model_copy(update={"mode": "articles", "epochs": 1, "learning_rate": 1e-8})

    run = runs.train(barely_trained)

    gain = run.checks["beats_best_baseline"]
    assert not gain.passed
    assert gain.severity.value == "WARN"
    assert "over the best baseline, linear_forecast: " in gain.description
    report = read_report(home.reports_dir / runs.ARCHITECTURE / "report.json")
    assert report.baselines["linear_forecast"].cosine > report.cosine
    assert max(scores.cosine for name, scores in report.baselines.items() if name != "linear_forecast") < 0.575


# F21: the best of many is the luckiest.


def test_f21_the_luckiest_of_many_equal_models_is_not_promoted(unharmed, home, tmp_path):
    model_dir = home.models_dir / runs.ARCHITECTURE
    candidates = mutations.lucky_models(model_dir, tmp_path, num=24)
    data = {name: getattr(home, name) for name in ("concepts_path", "sequences_path", "vectors_dir")}

    decision = select_champion(candidates, incumbent_dir=model_dir, device="cpu", num_threads=1, **data).decision

    luckiest = {decision.challenger: candidates[decision.challenger]}
    alone = select_champion(luckiest, incumbent_dir=model_dir, device="cpu", num_threads=1, **data).decision
    assert alone.promote, "its interval, for it alone, is above zero"
    assert not decision.promote
    assert decision.num_candidates == 24
    assert "(corrected for 24 candidates), not above zero" in decision.reason


# Every guard is needed.


@pytest.mark.slow
@pytest.mark.parametrize("mutation", OF_MODELS, ids=str)
def test_without_its_guard_the_fault_goes_unseen(mutation, request, monkeypatch):
    goes_unseen(globals()[mutation.test], mutation, request, monkeypatch)
