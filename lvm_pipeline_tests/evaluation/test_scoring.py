"""The train predictions that the hubness correction of a model is made from."""

import numpy as np
import pytest

from lvm_pipeline.evaluation import scoring
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.measures.hubness import candidate_penalties
from lvm_pipeline.training.batches import vectors_on_device
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.evaluation.products import make_products


@pytest.fixture(scope="module")
def long_articles(tmp_path_factory):
    """A few long articles and a model that reads them."""
    products = make_products(tmp_path_factory.mktemp("long"), lengths=[90, 60, 75, 81, 66] * 3)
    return products, products.train("articles", mode="articles", architecture="gru")


@pytest.fixture
def used(monkeypatch):
    """The predictions that the correction was made from."""
    seen = []

    def recorded(targets, predictions):
        seen.append(predictions)
        return candidate_penalties(targets, predictions)

    monkeypatch.setattr(scoring, "candidate_penalties", recorded)
    return seen


def predictions_of(products, model_dir, chosen=slice(None)):
    """All train predictions of some articles, and the article of each."""
    data = products.data()
    spans = data.scored_spans("train", mode="articles")
    spans = spans.take(np.arange(len(spans))[chosen])
    predictions = predict_spans(load_trained_model(model_dir)[0], vectors_on_device(data.vectors, "cpu"), spans)
    return predictions, data.articles_of(spans.target_rows())


def test_few_long_articles_all_have_a_part_in_the_hubness_correction(long_articles, used, monkeypatch):
    products, model_dir = long_articles
    monkeypatch.setattr(scoring, "MAX_TRAIN_PREDICTIONS", 100)
    everything, articles = predictions_of(products, model_dir)

    for at_a_time in (32_768, 150):  # in one go, and an article or two at a time
        monkeypatch.setattr(scoring, "TARGETS_AT_A_TIME", at_a_time)
        score_model(model_dir, products.data(), device="cpu", correct_hubness=True)

    step = round(len(everything) / 100)
    assert step > 2
    assert set(articles[::step]) == set(articles)
    for found in used:
        np.testing.assert_allclose(found, everything[::step], atol=1e-6)


def test_of_many_articles_whole_ones_are_taken_evenly(long_articles, used, monkeypatch):
    products, model_dir = long_articles
    monkeypatch.setattr(scoring, "FEWEST_SPANS", 3)
    monkeypatch.setattr(scoring, "MAX_TRAIN_PREDICTIONS", 250)

    score_model(model_dir, products.data(), device="cpu", correct_hubness=True)

    expected, articles = predictions_of(products, model_dir, slice(None, None, 3))
    assert len(set(articles)) == 3
    np.testing.assert_array_equal(used[0], expected)
