"""Fifteen faults of an earlier pipeline, F1 to F15, each put in for real, and the check that catches it.

Every test harms something (the Postgres table, the split, the checkpoint, the pool, the model), runs the real Dagster
definitions, and asserts which check failed and how severely, that nothing behind it was materialised, that the
message names rows or articles, and that the same check passes on unharmed data.

Each test can fail. `injected_faults.MUTATIONS` neuters one guard for each and the test named beside it goes red;
`test_without_its_guard_the_fault_goes_unseen` (slow) does that to every one:

| fault | guard that is neutered | what goes red |
|---|---|---|
| F1 | `ordering._failure` forgets ties | test_f01_equal_times |
| F1 | `positions_have_no_gap` passes | test_f01_a_missing_concept |
| F2 | `windows_stay_inside_articles` passes | test_f02 |
| F3 | `articles_are_in_one_split` passes | test_f03 |
| F4 | `articles_are_in_one_split` passes | test_f04 |
| F5 | `no_duplicate_concepts` passes | test_f05_a_range_ingested_twice |
| F5 | `no_near_duplicate_across_splits` passes | test_f05_nearly_the_same |
| F6 | `source_findings.choose_space` takes any space | test_f06_two_spaces |
| F6 | `vector_invariants._canary_cosines` encodes nothing | test_f06_another_space_under_the_same_name |
| F7 | `ordering._failure` forgets rows without a key | test_f07_rows_without_a_batch |
| F7 | `ordering._failure` forgets mixed articles | test_f07_a_page_of_many_articles |
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
"""

import dataclasses
import inspect
import re

import numpy as np
import pytest

from lvm_pipeline.architectures import lstm
from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.leaderboard import LeftOut, leaderboard
from lvm_pipeline.evaluation.report import read_report
from lvm_pipeline.experiments.selection import select_champion
from lvm_pipeline.sequences import build
from lvm_pipeline.sequences.windows import window_starts
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline.source.encoders.registry import remember_encoder
from lvm_pipeline.training import loop, objectives
from lvm_pipeline.training.config import TrainingConfig, training_config
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline_tests import faults
from lvm_pipeline_tests import injected_faults as injected
from lvm_pipeline_tests.defs.source_table import execute, fill_source
from lvm_pipeline_tests.faults import assert_stopped, assert_warned
from lvm_pipeline_tests.injected_faults import MUTATIONS
from lvm_pipeline_tests.measures.known_answers import known_answers
from lvm_pipeline_tests.synthetic import synthetic_table

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def unharmed_home(module_postgres_url, embedded_postgres_dir, embedded_server, open_tmp_path_factory):
    """Settings of a home where everything up to the evaluation was made from unharmed data."""
    fill_source(module_postgres_url, faults.LENGTHS, vector_dim=faults.WIDTH, kind="rotation")
    return faults.make_settings(open_tmp_path_factory() / "lvm_home", embedded_postgres_dir, module_postgres_url)


@pytest.fixture(scope="module")
def unharmed(unharmed_home):
    """What every check says of unharmed data and an honest training."""
    data, model = faults.refresh(unharmed_home), faults.train(unharmed_home)
    assert data.materialised >= {"concepts", "sequences"}, data.sentence
    assert model.materialised == {"trained_model", "evaluation_report"}, model.sentence
    return dataclasses.replace(data, checks={**data.checks, **model.checks})


@pytest.fixture
def home(unharmed, unharmed_home, open_tmp_path):
    """Settings of a copy of that home, to be harmed."""
    return faults.copied_home(unharmed_home, open_tmp_path / "lvm_home")


@pytest.fixture
def source(postgres_url, embedded_postgres_dir, open_tmp_path):
    """Settings of an empty home with a filled source table of its own, to be harmed; its ids in order."""
    ids = fill_source(postgres_url, faults.LENGTHS, vector_dim=faults.WIDTH, kind="rotation")
    return faults.make_settings(open_tmp_path / "lvm_home", embedded_postgres_dir, postgres_url), postgres_url, ids


# F1: the order key is tied or missing.


def test_f01_equal_times_inside_an_article_are_no_order(unharmed, source):
    settings, url, _ = source
    injected.harm(url, injected.WITHOUT_POSITIONS, "UPDATE cpe_entry SET created_at = '2025-01-01 00:00:00+00'")

    run = faults.refresh(settings)

    article = synthetic_table(faults.LENGTHS)["article_id"][0].as_py()
    naming = (f"{len(faults.LENGTHS)} articles have different concepts at an equal created_at", article)
    assert_stopped(run, unharmed, at="concepts", by="order_is_unambiguous", naming=naming)


def test_f01_a_missing_concept_leaves_a_gap_that_is_named(unharmed, source):
    settings, url, ids = source
    execute(url, "DELETE FROM cpe_vectors WHERE cpe_id = %s::uuid", ids[5])
    execute(url, "DELETE FROM cpe_entry WHERE cpe_id = %s::uuid", ids[5])

    run = faults.refresh(settings)

    naming = ("row 5 has position 6, expected 5", synthetic_table(faults.LENGTHS)["article_id"][0].as_py())
    assert_stopped(run, unharmed, at="concepts", by="positions_have_no_gap", naming=naming)


# F2: windows cross article boundaries.


def test_f02_windows_across_articles(unharmed, home, monkeypatch):
    monkeypatch.setattr(build, "window_starts", lambda articles, length: window_starts(np.zeros_like(articles), length))

    run = faults.run_job(home, "refresh_data", assets=("sequences",))

    first_crossing = f"rows {faults.LENGTHS[0] - 5} to {faults.LENGTHS[0]}"
    assert_stopped(run, unharmed, at="sequences", by="windows_stay_inside_articles", naming=(first_crossing,))
    num_windows = sum(faults.LENGTHS) - 5
    expected = sum(length - 5 for length in faults.LENGTHS)
    naming = (f"{num_windows} windows, expected {expected} from the article lengths",)
    assert_stopped(run, unharmed, at="sequences", by="window_count_is_exact", naming=naming)


# F3 and F4: the split cuts through articles.


def test_f03_windows_split_at_random(unharmed, home, monkeypatch):
    injected.with_splits(monkeypatch, np.random.default_rng(0).permutation)

    run = faults.run_job(home, "refresh_data", assets=("sequences",))

    article = synthetic_table(faults.LENGTHS)["article_id"][0].as_py()
    naming = (f"{article}: ", "train and validation")
    assert_stopped(run, unharmed, at="sequences", by="articles_are_in_one_split", naming=naming)


def test_f04_a_split_by_position_straddles_an_article(unharmed, home, monkeypatch):
    def by_position(splits):
        return np.where(np.arange(len(splits)) < len(splits) - 21, "train", "validation")

    injected.with_splits(monkeypatch, by_position)

    run = faults.run_job(home, "refresh_data", assets=("sequences",))

    articles = synthetic_table(faults.LENGTHS)["article_id"].to_pylist()
    windows = [
        a for a, p in zip(articles, synthetic_table(faults.LENGTHS)["position"].to_pylist(), strict=True) if p > 4
    ]
    assert windows[-22] == windows[-21]  # the cut lies inside this article
    naming = (f"{windows[-21]}: train and validation",)
    assert_stopped(run, unharmed, at="sequences", by="articles_are_in_one_split", naming=naming)


# F5: a range of articles is ingested twice.


def test_f05_a_range_ingested_twice(unharmed, source):
    settings, url, ids = source
    injected.harm(url, injected.AGAIN.format(text="concept_text"), injected.VECTORS_AGAIN.format(vector="concept_vec"))

    run = faults.refresh(settings)

    naming = (f"{sum(faults.LENGTHS[:2])} concepts repeat an earlier one", "has the text of row", ids[0])
    assert_stopped(run, unharmed, at="concepts", by="no_duplicate_concepts", naming=naming)


def test_f05_nearly_the_same_articles_never_lie_in_two_splits(unharmed, source, monkeypatch):
    settings, url, _ = source
    injected.harm(
        url,
        injected.AGAIN.format(text="upper(concept_text) || '!'"),
        injected.VECTORS_AGAIN.format(vector=injected.TURNED),
    )
    assert "sequences" in faults.refresh(settings).materialised  # copies follow their originals into one split
    monkeypatch.setattr(build, "split_by_hash", lambda ids, groups, **_: ["train", "validation"] * (len(ids) // 2))

    run = faults.refresh(settings)

    naming = ("near-duplicates are in different splits", "row ", "(train)", "(validation)")
    assert_stopped(run, unharmed, at="sequences", by="no_near_duplicate_across_splits", naming=naming)


# F6: vectors of another encoder.


def test_f06_two_spaces_in_one_table(unharmed, source):
    settings, url, ids = source
    execute(url, "UPDATE cpe_vectors SET space_id = 'other@2' WHERE cpe_id = ANY(%s::uuid[])", ids[:3])

    run = faults.refresh(settings)

    naming = (f"synthetic-{faults.WIDTH} ({len(ids) - 3} vectors)", "other@2 (3 vectors)")
    assert_stopped(run, unharmed, at="concepts", by="vectors_match_their_space", naming=naming)


def test_f06_another_space_under_the_same_name(unharmed, source):
    settings, url, ids = source
    texts = synthetic_table(faults.LENGTHS)["concept_text"].to_pylist()
    encoder = fit_lsa(texts)
    remember_encoder(encoder, encoders_dir=settings.encoders_dir)
    vectors = encoder.encode(texts)
    injected.store_vectors(url, ids, vectors, encoder.space_id)
    assert "concepts" in faults.refresh(settings).materialised
    injected.store_vectors(url, ids, np.roll(vectors, 1, axis=1), encoder.space_id)  # as long, as far from each other

    run = faults.refresh(settings)

    naming = ("16 of 16 texts encoded again", f"row 0 ({ids[0]})", encoder.space_id)
    assert_stopped(run, unharmed, at="concepts", by="vectors_match_their_space", naming=naming)


# F7: batches that are no articles.


def test_f07_rows_without_a_batch_are_not_one_article(unharmed, source):
    settings, url, _ = source
    injected.harm(url, injected.WITHOUT_POSITIONS, "UPDATE cpe_entry SET batch_id = NULL")

    run = faults.refresh(settings)

    num = sum(faults.LENGTHS)
    naming = (f"{num} of {num} rows have no batch_id",)
    assert_stopped(run, unharmed, at="concepts", by="order_is_unambiguous", naming=naming)


def test_f07_a_page_of_many_articles_is_not_one_article(unharmed, source):
    settings, url, ids = source
    injected.harm(
        url,
        f"UPDATE cpe_entry SET sequence_index = NULL, batch_id = '{ids[0]}'",
        injected.DISTINCT_TIMES,
    )

    run = faults.refresh(settings)

    naming = ("hold several articles", f"{ids[0]} ({len(ids)} rows, {len(faults.LENGTHS)} values)")
    assert_stopped(run, unharmed, at="concepts", by="order_is_unambiguous", naming=naming)


# F8: another model loads the checkpoint, keys and shapes fit.


def test_f08_weights_that_do_not_give_their_score_are_not_promoted(unharmed, home, monkeypatch):
    save = loop.save_trained_model

    def save_other_weights(path, weights, info):
        turned = {name: tensor.roll(1, 0) if tensor.dim() == 2 else tensor for name, tensor in weights.items()}
        save(path, turned, info)

    monkeypatch.setattr(loop, "save_trained_model", save_other_weights)
    before = (home.models_dir / faults.ARCHITECTURE / "model.safetensors").read_bytes()

    run = faults.train(home)

    naming = ("training recorded 0.", "the saved weights give")
    assert_stopped(run, unharmed, at="trained_model", by="checkpoint_reproduces_its_score", naming=naming)
    assert (home.models_dir / faults.ARCHITECTURE / "model.safetensors").read_bytes() == before


def test_f08_another_class_is_not_loaded(unharmed, home, monkeypatch):
    monkeypatch.setattr(lstm, "LstmLayers", injected.Backwards)

    run = faults.evaluate(home)

    assert run.failed_step == "evaluation_report"
    assert "LstmLayers" in run.sentence
    assert "would now be a" in run.sentence
    assert run.materialised == set()


def test_f08_changed_code_under_the_same_name_is_found_by_its_score(unharmed, home, monkeypatch):
    def forward(self, states, at=None):
        mixed = self.layers(states)[0].flip(-1)
        return mixed if at is None else mixed[at]

    monkeypatch.setattr(lstm.LstmLayers, "forward", forward)

    run = faults.evaluate(home)

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

    faults.promote_synthetic(home, kind="noise", change=alike)
    injected.with_model(monkeypatch, head="none", dropout=0.0)

    run = faults.train(home)

    by = "prediction_is_not_the_mean_vector"
    assert_stopped(run, unharmed, at="trained_model", by=by, naming=("cosine to the mean train vector is 0.9",))
    details = run.checks[by].metadata["details"].value
    assert details["prediction_variance"] < 0.1 * details["target_variance"]


# F10: no trivial baselines beside the model.


def test_f10_a_model_below_the_best_baseline_is_reported_and_not_promoted(unharmed, home):
    """A rotation is predicted perfectly by a regression, and by no model that was trained for a moment."""
    run = faults.evaluate(home)

    gain = run.checks["beats_best_baseline"]
    assert not gain.passed
    assert gain.severity.value == "WARN"
    exact = r"(ridge|ridge_residual|linear_forecast)"  # all three are, so rounding decides which is best
    assert re.match(rf"gain in cosine over the best baseline, {exact}: -0\.", gain.description)
    assert "articles" in gain.description
    report = read_report(home.reports_dir / faults.ARCHITECTURE / "report.json")
    assert report.gain.high < 0
    assert set(report.baselines) >= {"global_mean", "copy_last", "context_mean", "ridge", "ridge_residual"}
    decision = select_champion(
        {faults.ARCHITECTURE: home.models_dir / faults.ARCHITECTURE},
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
        starts = np.cumsum(faults.LENGTHS)[:-1]
        vectors[starts + 1] = vectors[starts]
        return vectors

    faults.promote_synthetic(home, change=doubled)

    run = faults.train(home)

    naming = ("rows whose vector is in the pool before (", "concepts of the scored split")
    assert_stopped(run, unharmed, at="evaluation_report", by="pool_is_declared_and_clean", naming=naming)


def test_f11_context_rows_among_the_candidates_are_named(unharmed, home, monkeypatch):
    target = "lvm_pipeline.evaluation.evaluate.primary_exclusion"
    monkeypatch.setattr(target, lambda targets: "context_rows")
    articles = home.model_copy(update={"mode": "articles"})

    run = faults.train(articles)

    naming = ("targets with a context row among their candidates", "without context_rows")
    assert_stopped(run, unharmed, at="evaluation_report", by="pool_is_declared_and_clean", naming=naming)


def test_f11_pools_of_two_sizes_never_stand_in_one_leaderboard(unharmed, home):
    report = read_report(home.reports_dir / faults.ARCHITECTURE / "report.json")
    shrunk = dataclasses.replace(
        report, name="shrunk", pool=dataclasses.replace(report.pool, size=9, fingerprint="0" * 64)
    )

    board = leaderboard([report, report, shrunk])

    assert board.left_out == (LeftOut(name="shrunk", reason="scored with another pool (9 concepts, 000000000000)"),)
    assert report.pool.size > 9


# F12: a diagnostic that is wrong.


def test_f12_a_wrong_diagnostic_does_not_give_the_known_answers(monkeypatch):
    assert failures_of(known_answers()) == []
    for diagnostic, wrong in injected.WRONG_DIAGNOSTICS.items():
        with monkeypatch.context() as patch:
            patch.setattr(diagnostic, wrong)
            assert failures_of(known_answers()) != []


def failures_of(answers):
    return [answer.what for answer in answers if not answer.is_right()]


# F13: the checkpoint is chosen by the loss.


def test_f13_the_checkpoint_is_chosen_by_the_metric_and_not_by_the_loss(home, tmp_path):
    faults.promote_synthetic(home, kind="noise")
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
    honest = faults.run_job(mixed, "train_architecture", assets=("trained_model",), partition=faults.ARCHITECTURE)
    assert "no_objective_term_dominates" in honest.passed
    monkeypatch.setattr(objectives, "OBJECTIVES", {"mse": injected.raw_mse, "infonce": injected.raw_infonce})
    monkeypatch.setattr(objectives.SumOfTerms, "scaled_by", lambda self, values: self)

    run = faults.train(mixed)

    assert_warned(run, honest, by="no_objective_term_dominates", naming=("infonce: 9", "after epoch"))
    assert "trained_model" in run.materialised


# F15: declarations that are not true.


def test_f15_a_false_size_is_refused_before_it_costs_a_training(unharmed, home, monkeypatch):
    presets = dict(lstm.ARCHITECTURE.presets)
    true = presets["smoke"].num_params
    presets["smoke"] = dataclasses.replace(presets["smoke"], num_params=1_300_000)
    injected.declare(monkeypatch, presets=presets)
    monkeypatch.setattr(loop._Training, "run", lambda *_: pytest.fail("it trained"))

    run = faults.train(home)

    naming = ("lstm smoke declares 1,300,000 parameters", f"has {true:,}")
    assert_stopped(run, unharmed, at="trained_model", by="preset_has_its_declared_size", naming=naming)


def test_f15_a_false_name_is_refused(unharmed, home, monkeypatch):
    injected.declare(monkeypatch, name="mamba2")

    run = faults.train(home)

    assert "module lstm declares the architecture 'mamba2'" in run.sentence
    assert run.materialised == set()


# Every guard is needed.


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_without_its_guard_the_fault_goes_unseen(mutation, request, monkeypatch):
    fault_test = globals()[mutation.test]
    arguments = {name: request.getfixturevalue(name) for name in inspect.signature(fault_test).parameters}
    mutation.neuter(monkeypatch)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        fault_test(**arguments)
