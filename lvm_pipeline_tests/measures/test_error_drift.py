"""The champion's error on new articles against that on its validation articles, article by article."""

from dataclasses import replace

import numpy as np
import pytest

from lvm_pipeline.measures.error_drift import Errors, champion_predicts_as_before


def errors(num_articles, *, cosine=0.6, gain=0.01, seed=0, length=12):
    """Articles differ by 0.05, and the gain by 0.01; targets of an article by as much again."""
    rng = np.random.default_rng(seed)
    articles = np.repeat(np.arange(num_articles), length)
    noise = rng.standard_normal((4, num_articles))[:, articles] + rng.standard_normal((4, len(articles)))
    forecast = cosine - gain + 0.05 * noise[0]
    return Errors(cosine=forecast + gain + 0.01 * noise[1], forecast=forecast, articles=articles)


BEFORE = errors(200)


def test_equal_articles_pass_with_numbers_to_plot():
    finding = champion_predicts_as_before(BEFORE, errors(60, seed=1))

    assert finding.outcome == "passed"
    assert finding.observed == pytest.approx(0.6, abs=0.02)
    assert {"cosine_now", "cosine_before", "gain_now", "gain_before", "cosine_change_high"} <= finding.details.keys()


def test_harder_articles_are_said_to_be_harder():
    finding = champion_predicts_as_before(BEFORE, errors(60, cosine=0.5, seed=1))

    assert finding.outcome == "warning"
    assert "on 60 new articles" in finding.message
    assert "on its 200 validation articles" in finding.message
    assert finding.message.endswith("so the articles are harder")


def test_a_lost_gain_is_the_models_own():
    finding = champion_predicts_as_before(BEFORE, errors(60, cosine=0.6, gain=-0.002, seed=0))

    assert finding.outcome == "warning"
    assert finding.message.endswith("so the articles are not harder and the model is worse on them")


def test_a_forecast_that_fell_a_little_is_said_to_have_fallen():
    now = replace(BEFORE, cosine=BEFORE.cosine - 0.024, forecast=BEFORE.forecast - 0.004)

    finding = champion_predicts_as_before(BEFORE, now)

    before = float(BEFORE.forecast.mean())
    assert finding.message.endswith(
        f"the linear forecast went from {before:.4f} to {before - 0.004:.4f}, so the articles are hardly harder and "
        "the model is worse on them"
    )
    assert finding.message.count(", 99 % interval [") == 2


def test_better_articles_and_small_changes_pass():
    assert champion_predicts_as_before(BEFORE, errors(60, cosine=0.7, seed=1)).passed
    slightly_lower = champion_predicts_as_before(errors(2000), errors(2000, cosine=0.595, seed=1))
    assert slightly_lower.details["cosine_change_high"] < 0
    assert slightly_lower.passed


@pytest.mark.parametrize(("num", "length"), [(9, 50), (11, 9)])
def test_few_new_articles_are_not_checked(num, length):
    finding = champion_predicts_as_before(BEFORE, errors(num, cosine=0.2, length=length))

    assert finding.outcome == "not checked"
    assert f"{num} new articles" in finding.message


def test_one_validation_article_is_not_checked():
    finding = champion_predicts_as_before(errors(1, length=300), errors(60, seed=1))

    assert finding.outcome == "not checked"
    assert "1 validation article is too few" in finding.message
