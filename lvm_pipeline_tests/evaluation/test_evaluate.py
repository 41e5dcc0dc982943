import inspect
import math
from dataclasses import replace

import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation import evaluate, rollout, scoring
from lvm_pipeline.evaluation.report import report_from_json
from lvm_pipeline.evaluation.standing_scores import standing_scores
from lvm_pipeline.experiments.selection import select_champion
from lvm_pipeline.findings import Finding, Severity
from lvm_pipeline.measures.baselines import BASELINES, LINEAR_FORECAST
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.ranking import RANKING_BASELINES
from lvm_pipeline.training.batches import vectors_on_device
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.evaluation.products import make_products


def finding(report, name):
    return next(found for found in report.findings if found.name == name)


def test_scores_are_those_of_the_models_own_predictions(products, model_dir, report):
    data = products.data()
    model, info = load_trained_model(model_dir)
    runs = data.scored_spans("validation", mode="windows")
    predictions = predict_spans(model, vectors_on_device(data.vectors, "cpu"), runs)

    expected = cosines(predictions, np.asarray(data.vectors[runs.target_rows()])).mean()

    assert report.cosine == pytest.approx(float(expected), abs=1e-6)
    assert report.cosine == pytest.approx(info.score, abs=1e-5)


def test_report_names_what_it_is_about(products, report):
    data = products.data()

    assert report.fingerprint == data.sequences.metadata.fingerprint
    assert report.space_id == "synthetic"
    assert (report.split, report.context_mode, report.is_leaking) == ("validation", "windows", False)
    assert report.counts.targets == len(data.sequences.of_split("validation"))
    assert report.pool.size > report.counts.targets
    assert report.pool.exclusion == "context_rows"
    assert 0 < report.latency_ms.p50 <= report.latency_ms.p95


def test_a_model_is_scored_on_the_device_that_was_asked_for(products, model_dir, monkeypatch):
    """Loading, predicting, controls and latency; a recorded second GPU stands for the real one."""
    used = {}

    def recorded(module, name):
        function = getattr(module, name)

        def on_the_cpu(*args, **kwargs):
            used[name] = kwargs.get("device") or args[1]
            args = ["cpu" if isinstance(arg, str) and arg == "cuda:1" else arg for arg in args]
            return function(*args, **(kwargs | ({"device": "cpu"} if "device" in kwargs else {})))

        monkeypatch.setattr(module, name, on_the_cpu)

    monkeypatch.setattr(scoring, "find_device", lambda name: name)
    for name in ("load_trained_model", "vectors_on_device"):
        recorded(scoring, name)
    recorded(rollout, "vectors_on_device")
    for name in ("control_scores", "latency_ms"):
        recorded(evaluate, name)

    products.evaluate(model_dir, device="cuda:1")

    assert used == dict.fromkeys(("load_trained_model", "vectors_on_device", "control_scores", "latency_ms"), "cuda:1")


@pytest.mark.parametrize("function", [evaluate.evaluate_model, scoring.score_model, select_champion])
def test_no_device_is_assumed(function):
    """With a default, a caller that forgets the device scores a model of a GPU on the CPU."""
    assert inspect.signature(function).parameters["device"].default is inspect.Parameter.empty


def test_a_device_that_cannot_score_is_refused(products, model_dir):
    with pytest.raises(LvmError, match="Models run on cpu or cuda, not on 'meta'"):
        products.evaluate(model_dir, device="meta")


def test_gains_are_over_every_baseline_on_the_same_rows(report):
    assert set(report.baselines) == set(BASELINES) - {"article_mean_mix"}
    for found in report.baselines.values():
        gain = found.gain
        assert gain.mean == pytest.approx(report.cosine - found.cosine, abs=1e-6)
        assert gain.low <= gain.mean <= gain.high
    assert report.best_baseline == max(report.baselines, key=lambda name: report.baselines[name].cosine)
    assert report.gain == report.baselines[report.best_baseline].gain


def test_a_model_that_reads_articles_meets_the_whole_article_arithmetic(articles_report):
    assert articles_report.context_mode == "articles"
    assert "article_mean_mix" in articles_report.baselines
    assert articles_report.pool.exclusion == "earlier_rows_of_article"
    assert articles_report.controls.context_length > 5


def test_models_of_any_context_are_scored_on_the_same_targets_and_pool(report, articles_report):
    assert report.fingerprint == articles_report.fingerprint
    assert report.pool.fingerprint == articles_report.pool.fingerprint
    assert report.counts == articles_report.counts
    for name in set(report.baselines) - {LINEAR_FORECAST}:  # it reads as much as the model
        assert report.baselines[name].cosine == articles_report.baselines[name].cosine


def test_article_scores_average_to_the_whole(report):
    articles = report.articles
    total = sum(article.num_targets for article in articles)

    assert total == report.counts.targets
    assert sum(a.cosine * a.num_targets for a in articles) / total == pytest.approx(report.cosine, abs=1e-5)
    gain = sum(a.gain * a.num_targets for a in articles) / total
    assert gain == pytest.approx(report.gain.mean, abs=1e-5)
    assert articles[0].label.startswith("Concept 0 of article")


def test_plots_data_cover_every_target(report):
    histogram, curve = report.cosine_histogram, report.retrieval_curve

    assert sum(histogram.model) == sum(histogram.best_baseline) == report.counts.targets
    assert curve.model[0] == pytest.approx(report.main_retrieval.r_at_1)
    assert curve.model[-1] == 1.0
    assert curve.k[-1] == report.pool.size


def test_chance_on_the_curve_is_that_of_the_table(report, articles_report):
    for found in (report, articles_report):
        chance = dict(zip(found.retrieval_curve.k, found.retrieval_curve.chance, strict=True))
        assert chance[1] == pytest.approx(found.main_chance.r_at_1)
        assert chance[5] == pytest.approx(found.main_chance.r_at_5)
        assert chance[5] > 5 / found.pool.size


def test_gains_in_other_measures_are_over_the_best_baseline_on_the_same_targets(report):
    gains, best = report.other_gains, report.best

    assert gains.centred_cosine.mean == pytest.approx(report.centred_cosine - best.centred_cosine, abs=1e-6)
    for rule, gain in gains.mrr.items():
        assert gain.mean == pytest.approx(report.retrieval[rule].mrr - best.retrieval[rule].mrr, abs=1e-6)
        assert gain.low < gain.mean < gain.high


def test_controls_show_that_this_model_needs_its_context_and_its_order(report):
    controls = report.controls

    assert controls.wrong_context.loss.low > 0.3
    assert controls.order_shuffled.loss.low > 0.3
    assert controls.cosine == pytest.approx(report.cosine, abs=0.05)


def test_findings_are_there_with_their_severities(report):
    severities = {found.name: found.severity for found in report.findings}

    assert severities == {
        "pool_is_declared_and_clean": Severity.BLOCKING,
        "checkpoint_reproduces_its_score": Severity.BLOCKING,
        "prediction_is_not_the_mean_vector": Severity.BLOCKING,
        "beats_best_baseline": Severity.WARNING,
        "cosine_is_above_minimum_viable": Severity.WARNING,
        "cosine_is_above_production": Severity.WARNING,
        "inference_takes_under_50_ms": Severity.WARNING,
        "text_accuracy_is_above_minimum_viable": Severity.WARNING,
        "text_accuracy_is_above_production": Severity.WARNING,
        "training_takes_under_an_hour": Severity.WARNING,
    }


def test_a_model_below_a_baseline_is_reported(report):
    """The ridge predicts a rotation perfectly; three epochs of a tiny model do not."""
    found = finding(report, "beats_best_baseline")

    assert not found.passed
    assert found.observed == report.gain.low
    assert report.best_baseline in found.message


def test_a_collapsed_model_is_caught(products, report):
    """Weights of the mean at zero leave nothing but a constant."""
    collapsed = products.train("collapsed", model={"head": "none"}, learning_rate=1e-9)

    found = finding(products.evaluate(collapsed), "prediction_is_not_the_mean_vector")

    assert not found.passed
    assert finding(report, "prediction_is_not_the_mean_vector").passed


def test_test_split_is_scored_only_when_asked(products, model_dir, report):
    on_test = products.evaluate(model_dir, split="test")

    assert on_test.split == "test"
    assert on_test.pool.fingerprint != report.pool.fingerprint
    assert any("Test split" in sentence for sentence in report.not_checked)
    assert not any("Test split" in sentence for sentence in on_test.not_checked)


def test_a_model_may_read_articles_that_was_trained_on_windows(products, model_dir, report):
    other = products.evaluate(model_dir, context_mode="articles")

    assert other.context_mode == "articles"
    assert not math.isclose(other.cosine, report.cosine, abs_tol=1e-6)


def test_a_model_that_sees_the_future_is_scored_on_windows_alone(products):
    model_dir = products.train("linformer", mode="auto", architecture="linformer")

    assert products.evaluate(model_dir).context_mode == "windows"
    with pytest.raises(LvmError, match=r"linformer sees later inputs .* evaluate it on windows"):
        products.evaluate(model_dir, context_mode="articles")


def test_evaluating_twice_gives_the_same_scores(products, model_dir, report):
    again = products.evaluate(model_dir)

    for name in ("cosine", "retrieval", "baselines", "controls", "articles"):
        assert getattr(again, name) == getattr(report, name)


class TestRefusals:
    def test_other_data_of_the_same_space(self, tmp_path, model_dir):
        other = make_products(tmp_path, seed=7)

        with pytest.raises(LvmError, match="was trained on other data"):
            other.evaluate(model_dir)

        report = other.evaluate(model_dir, require_same_data=False)
        assert not report.is_same_data_as_training
        assert any("other data" in sentence for sentence in report.not_checked)

    def test_other_split_of_the_same_concepts(self, tmp_path, model_dir):
        other = make_products(tmp_path, split_seed=5)

        with pytest.raises(LvmError, match="sequences"):
            other.evaluate(model_dir)

    def test_other_width(self, tmp_path, model_dir):
        other = make_products(tmp_path, vector_dim=8)

        with pytest.raises(LvmError, match="width 16, not 8"):
            other.evaluate(model_dir, require_same_data=False)

    def test_other_space(self, tmp_path, products, model_dir, monkeypatch):
        data = products.data()
        strange = replace(data, concepts=replace(data.concepts, space_id="another"))
        monkeypatch.setattr(evaluate, "load_training_data", lambda *_: strange)

        with pytest.raises(LvmError, match="another"):
            products.evaluate(model_dir, require_same_data=False)

    def test_unknown_split(self, products, model_dir):
        with pytest.raises(LvmError, match="no split 'holdout'"):
            products.evaluate(model_dir, split="holdout")

    def test_missing_model(self, products, tmp_path):
        with pytest.raises(LvmError, match="no trained model"):
            products.evaluate(tmp_path)


def test_leaking_sequences_are_labelled_in_the_report(tmp_path):
    leaking = make_products(tmp_path, boundaries="ignore", split="last_20_percent")

    report = leaking.evaluate(leaking.train("leaking"))

    assert report.is_leaking
    assert "articles" in str(report.leak_reason)


def test_the_score_of_training_is_reproduced_or_said_not_to_be_comparable(products, model_dir, report):
    reproduced = finding(report, "checkpoint_reproduces_its_score")
    assert (reproduced.outcome, reproduced.observed) == ("passed", pytest.approx(0, abs=1e-6))

    skipped = Finding(
        name="vectors_match_their_space",
        passed=True,
        severity=Severity.BLOCKING,
        message="no text was encoded again, as its encoder is not at hand",
        was_checked=False,
    )
    other = products.evaluate(model_dir, split="train", data_findings=[skipped])

    assert finding(other, "checkpoint_reproduces_its_score").outcome == "not checked"
    assert any(sentence.startswith("Checkpoint reproduces its score") for sentence in other.not_checked)
    assert other.data_findings == (skipped,)
    assert "Vectors match their space: no text was encoded again, as its encoder is not at hand." in other.not_checked


def test_a_report_says_when_nothing_is_on_record_of_what_was_checked_before(report):
    assert (report.data_findings, report.training_findings) == (None, ())
    assert any(sentence.startswith("Data: there is no verification report") for sentence in report.not_checked)
    assert any(sentence.startswith("Training: its checks were not stored") for sentence in report.not_checked)


def test_ranking_and_standing_are_reported(report, articles_report):
    for found in (report, articles_report):
        ranking, standing = found.ranking, found.standing
        names = [row.name for row in ranking.predictors]
        assert names == [found.name, *RANKING_BASELINES]
        model = ranking.predictors[0]
        assert model.mrr == pytest.approx(found.retrieval["earlier_rows_of_article"].mrr)
        best = max(ranking.predictors[1:], key=lambda row: row.better_mrr)
        assert ranking.best_baseline == best.name
        assert ranking.gain.mean == pytest.approx(model.better_mrr - best.better_mrr)
        assert [row.name for row in standing.predictors] == [found.name, "copy_last"]
        assert standing.leak_ladder is None  # there is no encoder of synthetic vectors
        assert report_from_json(found.as_json()) == found


def test_the_leak_ladder_climbs_with_the_words_that_are_known(products, model_dir, tmp_path):
    class ByLength:
        """Encodes a text as what its number of words says."""

        space_id, vector_dim, num_calls = "synthetic", 16, 0

        def encode(self, texts, *, progress=None):
            self.num_calls += 1
            return np.array([[len(text.split()), *([1.0] * 15)] for text in texts], np.float32)

    scored = scoring.score_model(model_dir, products.data(), device="cpu")
    options = {"concepts_path": products.concepts_path, "cache_dir": tmp_path, "seed": 0}
    encoder = ByLength()
    found = standing_scores(scored, encoder=encoder, **options)
    again = standing_scores(scored, encoder=encoder, **options)

    assert found.leak_ladder is not None
    assert [step.num_words for step in found.leak_ladder] == [1, 3, 5, 10]
    assert len({step.cosine.mean for step in found.leak_ladder}) > 1
    assert again == found  # from the clusters and the ladder that were cached
    assert encoder.num_calls == 4
    assert sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir()) == ["clusters", "leak-ladder"]
