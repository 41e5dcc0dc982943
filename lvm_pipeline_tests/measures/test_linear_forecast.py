"""The linear forecast solves what it states, on train articles alone, for contexts and vectors of any size."""

import numpy as np
import pytest

from lvm_pipeline.measures.baselines import fitted_forecast
from lvm_pipeline.measures.linear_forecast import DECAYS, INPUTS, fit_linear_forecast
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline_tests.measures.processes import process_vectors, targets_of_process, targets_on

MODES = ("windows", "articles")


def predictions_of(targets):
    return fitted_forecast(targets).predict(targets.vectors, targets.scored.first_rows, targets.scored.target_rows)


def plain_prediction(forecast, context):
    """The prediction from one context (T, D), by the formula of the module."""
    rotated = np.asarray(context, np.float64) @ forecast.basis
    lags = np.arange(len(rotated))[::-1]
    means = [np.average(rotated, axis=0, weights=np.power(float(decay), lags)) for decay in forecast.decays]
    summaries = np.array([*means, rotated[0]])
    num_leading = len(forecast.low_rank) // len(forecast.inputs)
    leading = np.concatenate([summaries[index][:num_leading] for index in forecast.inputs])
    return forecast.basis @ (
        (forecast.weights * summaries).sum(axis=0) + leading @ forecast.low_rank + forecast.constant
    )


@pytest.mark.parametrize("context_mode", MODES)
def test_predictions_are_those_of_the_formula(context_mode):
    targets = targets_of_process("random_walk", lengths=(150, 7, 20, 90, 8) * 4, context_mode=context_mode)
    forecast, scored = fitted_forecast(targets), targets.scored

    found = forecast.predict(targets.vectors, scored.first_rows, scored.target_rows)

    expected = [
        plain_prediction(forecast, targets.vectors[first:end])
        for first, end in zip(scored.first_rows, scored.target_rows, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_direction_gets_the_weights_that_generated_it():
    rng = np.random.default_rng(0)
    articles = []
    for _ in range(100):  # two directions repeat the last concept, two the one before it
        noise, article = rng.normal(size=(40, 4)), np.zeros((40, 4))
        for position in range(40):
            last, before = (article[position - lag] if position >= lag else np.zeros(4) for lag in (1, 2))
            article[position] = [*(0.9 * last[:2]), *(0.9 * before[2:])] + noise[position] * (1, 0.8, 0.6, 0.4)
        articles.append(article)
    targets = targets_on(np.concatenate(articles).astype(np.float32), (40,) * 100)
    wanted = (
        np.concatenate(
            [
                targets.vectors[targets.scored.target_rows - lag, part]
                for lag, part in ((1, slice(0, 2)), (2, slice(2, 4)))
            ],
            axis=1,
        )
        * 0.9
    )

    assert cosines(predictions_of(targets), wanted).mean() > 0.98


def test_directions_predict_each_other_through_the_low_rank_part():
    rotation = targets_of_process("rotation", lengths=(30,) * 60)

    assert cosines(predictions_of(rotation), rotation.vectors[rotation.scored.target_rows]).mean() > 0.98


def test_the_first_concept_of_an_article_is_remembered():
    lengths = (30,) * 100
    vectors = process_vectors("noise", lengths=lengths)
    firsts = np.repeat(vectors[::30], 30, axis=0)
    vectors = np.where(np.arange(len(vectors))[:, None] % 30 == 0, vectors, vectors + firsts).astype(np.float32)
    targets = targets_on(vectors, lengths, context_mode="articles")

    assert fitted_forecast(targets).weights[-1].mean() > 0.5


@pytest.mark.parametrize("context_mode", MODES)
def test_nothing_is_fitted_on_what_is_scored(context_mode):
    lengths = (20,) * 20
    vectors = process_vectors("random_walk", lengths=lengths)
    targets = targets_on(vectors, lengths, context_mode=context_mode)
    changed = vectors.copy()
    changed[targets.pool_rows] = 7.0
    forecast, other = fitted_forecast(targets), fitted_forecast(targets_on(changed, lengths, context_mode=context_mode))

    for name in ("basis", "weights", "low_rank", "constant"):
        np.testing.assert_array_equal(getattr(forecast, name), getattr(other, name))
    assert forecast.penalties == other.penalties


@pytest.mark.parametrize(
    ("lengths", "vector_dim"),
    [((6, 6, 6, 6), 16), ((6,) * 5, 1), ((7, 6, 6, 30), 3), ((400, 6, 6, 6), 300)],
    ids=["one target an article", "width 1", "few", "one long article, 300 wide"],
)
@pytest.mark.parametrize("context_mode", MODES)
def test_few_articles_and_any_width_do_not_fail(lengths, vector_dim, context_mode):
    targets = targets_of_process("random_walk", lengths=lengths, vector_dim=vector_dim, context_mode=context_mode)
    forecast = fitted_forecast(targets)
    num_leading = min(256, vector_dim)

    assert forecast.basis.shape == (vector_dim, vector_dim)
    assert forecast.weights.shape == (len(DECAYS) + 1, vector_dim)
    assert forecast.low_rank.shape == (num_leading * len(INPUTS), vector_dim)
    assert np.isfinite(forecast.predict(targets.vectors, targets.scored.first_rows, targets.scored.target_rows)).all()


def test_one_train_article_is_enough():
    vectors = process_vectors("random_walk", lengths=(30,))
    rows = np.arange(5, 30)
    options = {"train_rows": np.arange(30), "first_rows": rows - 5, "target_rows": rows, "articles": np.zeros(25, int)}

    forecast = fit_linear_forecast(vectors, **options)

    assert np.isfinite(forecast.predict(vectors, rows - 5, rows)).all()


def test_constant_vectors_are_predicted_as_they_are():
    targets = targets_on(np.full((80, 4), 3.0, np.float32), (20,) * 4)

    np.testing.assert_allclose(predictions_of(targets), 3.0, atol=1e-4)


def test_predictions_are_right_on_average_far_from_zero():
    lengths = (20,) * 60
    targets = targets_on(process_vectors("rotation", lengths=lengths) + 3, lengths)
    train = targets.train
    found = fitted_forecast(targets).predict(targets.vectors, train.first_rows, train.target_rows)

    np.testing.assert_allclose(found.mean(axis=0), targets.vectors[train.target_rows].mean(axis=0), atol=1e-4)


def test_vectors_of_any_length_are_predicted_alike():
    targets = targets_of_process("random_walk")
    longer = targets_on(100 * targets.vectors, (20,) * 40)

    np.testing.assert_allclose(predictions_of(longer), 100 * predictions_of(targets), rtol=1e-2, atol=1e-2)


def test_no_target_is_refused():
    with pytest.raises(ValueError, match="no target"):
        fit_linear_forecast(
            np.zeros((3, 2), np.float32),
            train_rows=np.arange(3),
            first_rows=np.zeros(0, int),
            target_rows=np.zeros(0, int),
            articles=np.zeros(0, int),
        )
