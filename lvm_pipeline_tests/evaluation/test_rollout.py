"""Roll-out: predictions fed back, scored against the concepts that came."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from lvm_pipeline.evaluation import rollout
from lvm_pipeline.evaluation.kept_fits import kept_forecast
from lvm_pipeline.evaluation.report import report_from_json
from lvm_pipeline.evaluation.report_page import report_html
from lvm_pipeline.evaluation.rollout import HELD, LINEAR, MODEL, NEAREST, NUM_STEPS, TRUTH, rollout_scores
from lvm_pipeline.evaluation.rollout_pages import rollout_table
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline_tests.evaluation.products import make_products


@pytest.fixture(scope="module", params=["windows", "articles"])
def scored(request, products, model_dir, articles_model_dir):
    folder = {"windows": model_dir, "articles": articles_model_dir}[request.param]
    return score_model(folder, products.data(), device="cpu", num_threads=1)


@pytest.fixture(scope="module")
def found(scored):
    return rollout_scores(scored, seed=3)


def test_step_by_step_it_is_the_model_on_its_own_predictions(scored, found):
    starts = rollout._sampled_starts(scored.targets.scored, seed=3)
    vectors, contexts = scored.data.vectors, scored.targets.scored
    by_step = [[] for _ in range(NUM_STEPS)]
    for start in starts:
        row = contexts.target_rows[start]
        read = list(np.asarray(vectors[contexts.first_rows[start] : row]))
        for step in range(NUM_STEPS):
            kept = read if scored.info.mode == "articles" else read[-5:]
            with torch.inference_mode():
                prediction = scored.model(torch.from_numpy(np.stack(kept))[None])[0, -1].numpy()
            by_step[step].append(float(cosines(prediction[None], vectors[row + step][None])[0]))
            read.append(prediction)

    expected = np.mean(by_step, axis=1)
    np.testing.assert_allclose(found.by_name[MODEL].cosine, expected, atol=1e-4)
    assert expected[0] != pytest.approx(expected[-1], abs=1e-3)
    assert found.num_articles == len(starts) == len(set(contexts.articles[starts]))


def test_contexts_are_a_multiple_of_eight_long_where_their_article_allows_it(scored):
    contexts = scored.targets.scored
    starts = rollout._sampled_starts(contexts, seed=3)
    lengths = contexts.target_rows - contexts.first_rows
    possible = {article: set() for article in contexts.articles[starts].tolist()}
    for index in range(len(contexts) - NUM_STEPS + 1):
        if contexts.articles[index] == contexts.articles[index + NUM_STEPS - 1]:
            possible[int(contexts.articles[index])].add(int(lengths[index]))

    found = dict(zip(contexts.articles[starts].tolist(), lengths[starts].tolist(), strict=True))
    assert found.keys() == possible.keys()
    for article, length in found.items():
        whole = {each for each in possible[article] if each % 8 == 0}
        assert length in (whole or possible[article])
    assert any(length % 8 == 0 for length in found.values()) == (scored.info.mode == "articles")
    assert rollout._sampled_starts(contexts, seed=4).tolist() != starts.tolist()


def test_the_first_step_is_the_usual_prediction_and_the_truth_is_never_fed_back(scored, found):
    curves = found.by_name

    for name in (NEAREST, TRUTH):
        assert curves[name].cosine[0] == pytest.approx(curves[MODEL].cosine[0], abs=1e-5)
        assert curves[name].mrr[0] == pytest.approx(curves[MODEL].mrr[0], abs=1e-5)
    for name in (MODEL, LINEAR):
        assert curves[name].cosine[1] != pytest.approx(curves[TRUTH].cosine[1], abs=1e-6)


def test_the_ranks_are_those_of_the_report_at_the_first_step(scored):
    starts = rollout._sampled_starts(scored.targets.scored, seed=3)
    rolled = rollout._Rollout(scored=scored, starts=starts)

    ranks = rolled.ranks(scored.predictions[rolled.indices].transpose(1, 0, 2))

    rule = rollout.primary_exclusion(scored.targets)
    np.testing.assert_array_equal(ranks[0], scored.scores.ranks[rule][starts])
    assert (ranks >= scored.scores.ranks[rule][rolled.indices].T).all()  # what came between was not read


def test_the_linear_forecast_goes_on_alone_and_the_gain_is_against_it(scored, found):
    curves = found.by_name
    forecast = kept_forecast(scored.targets, fingerprint="f", cache_dir=None)
    starts = rollout._sampled_starts(scored.targets.scored, seed=3)
    contexts, vectors = scored.targets.scored, scored.data.vectors
    two = []
    for start in starts:
        row, first = contexts.target_rows[start], contexts.first_rows[start]
        read = np.asarray(vectors[first:row])
        for _ in range(2):
            prediction = unit_length(forecast.predict(read, np.array([0]), np.array([len(read)])))
            read = np.concatenate([read, prediction])
            read = read if scored.info.mode == "articles" else read[-5:]
        two.append(float(cosines(prediction, vectors[row + 1][None])[0]))

    assert curves[LINEAR].cosine[1] == pytest.approx(np.mean(two), abs=1e-4)
    for step in range(NUM_STEPS):
        gain = curves[MODEL].cosine[step] - curves[LINEAR].cosine[step]
        assert found.gains[step].mean == pytest.approx(gain, abs=1e-5)


def test_the_last_concept_held_is_scored_against_each_later_one(scored, found):
    starts = rollout._sampled_starts(scored.targets.scored, seed=3)
    rows, vectors = scored.targets.scored.target_rows[starts], scored.data.vectors

    expected = [cosines(vectors[rows - 1], vectors[rows + step]).mean() for step in range(NUM_STEPS)]
    np.testing.assert_allclose(found.by_name[HELD].cosine, expected, atol=1e-5)


class Turned:
    """A decoder and an encoder at once, for texts that say in which order they were decoded."""

    name, space_id = "turned", "synthetic"

    def decode(self, vectors, *, exclude=None):
        self.vectors = vectors
        return [str(index) for index in range(len(vectors))]

    def encode(self, texts):
        return -self.vectors[[int(text) for text in texts]]


def test_texts_are_encoded_again_and_fed_back(scored):
    decoder = Turned()

    curve = rollout_scores(scored, decoders=[decoder], encoder=decoder, seed=3).by_name[
        "model, text of turned fed back"
    ]

    plain = rollout_scores(scored, seed=3).by_name[MODEL]
    assert curve.cosine[0] == pytest.approx(plain.cosine[0], abs=1e-5)
    assert curve.cosine[1] != pytest.approx(plain.cosine[1], abs=1e-4)


def test_the_same_seed_gives_the_same_articles_and_at_most_as_many_as_wanted(scored, monkeypatch):
    assert rollout_scores(scored, seed=3) == rollout_scores(scored, seed=3)
    monkeypatch.setattr(rollout, "MOST_ARTICLES", 2)
    assert rollout_scores(scored, seed=0).num_articles == 2


def test_short_articles_have_no_rollout(tmp_path):
    products = make_products(tmp_path, lengths=[10] * 30)
    model_dir = products.train("short")
    scored = score_model(model_dir, products.data(), device="cpu", num_threads=1)

    assert rollout_scores(scored) is None
    report = products.evaluate(model_dir)
    assert report.rollout is None
    assert "Roll-out: no article of the split has 8 targets in a row." in report.not_checked


def test_a_report_holds_it_as_json_and_on_its_page(report):
    again = report_from_json(json.loads(json.dumps(report.as_json())))
    page = report_html(report)

    assert again.rollout == report.rollout
    assert len(report.rollout.curves[0].cosine) == NUM_STEPS
    assert "<h2>Roll-out</h2>" in page
    assert 'aria-label="Roll-out: cosine by step"' in page
    assert len(rollout_table(report.rollout).rows) == NUM_STEPS
    without = dataclasses.replace(report, rollout=None)
    assert "Roll-out" not in report_html(without)
