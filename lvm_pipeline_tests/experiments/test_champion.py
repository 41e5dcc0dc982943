from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.evaluation.scoring import RowScores
from lvm_pipeline.experiments.champion import decide

NUM_ARTICLES, EACH = 20, 10


def scores(name, *, gain=0.0, noise=0.01, seed=0, model="weights", **changes):
    """Cosines that differ from article to article, shifted by `gain`."""
    articles = np.repeat(np.arange(NUM_ARTICLES), EACH)
    difficulty = np.random.default_rng(99).normal(0.5, 0.2, NUM_ARTICLES)[articles]
    own = np.random.default_rng(seed).normal(0, noise, len(articles))
    values = {
        "name": name,
        "fingerprint": "f" * 64,
        "split": "validation",
        "target_rows": np.arange(len(articles)),
        "articles": articles,
        "cosines": (difficulty + own + gain).astype(np.float32),
        "model_fingerprint": f"{model} of {name}",
        **changes,
    }
    return RowScores(**values)


BASELINE = scores("ridge", seed=1, model_fingerprint=None)
CHAMPION = scores("lstm", gain=0.02, seed=2)


def test_the_first_champion_beats_the_best_baseline():
    decision = decide(scores("gru", gain=0.01), incumbent=None, best_baseline=BASELINE)

    assert decision.promote
    assert decision.against == "ridge"
    assert decision.gain.low > 0
    assert "best baseline, ridge" in decision.reason


def test_no_champion_without_a_gain_over_the_best_baseline():
    decision = decide(scores("gru", seed=5), incumbent=None, best_baseline=BASELINE)

    assert not decision.promote
    assert decision.gain.low <= 0
    assert ", not above zero." in decision.reason


def test_a_challenger_that_beats_the_champion_is_promoted():
    decision = decide(scores("gru", gain=0.03), incumbent=CHAMPION, best_baseline=BASELINE)

    assert decision.promote
    assert decision.against == "lstm"
    assert decision.gain.mean == pytest.approx(0.01, abs=0.003)
    assert (decision.num_targets, decision.num_articles) == (200, 20)


def test_a_challenger_that_beats_only_the_baseline_is_not():
    decision = decide(scores("gru", gain=0.015), incumbent=CHAMPION, best_baseline=BASELINE)

    assert not decision.promote
    assert "the champion, lstm" in decision.reason


def test_a_gain_on_one_article_alone_is_not_enough_to_promote():
    """By rows this gain would be sure; by articles it is one observation."""
    lucky = scores("gru", noise=0, gain=0.0)
    base = replace(lucky, name="lstm", model_fingerprint="other", cosines=lucky.cosines.copy())
    lucky.cosines[:EACH] += 0.3

    decision = decide(lucky, incumbent=base, best_baseline=BASELINE)

    assert decision.gain.mean > 0
    assert not decision.promote


def test_the_champion_does_not_challenge_itself():
    decision = decide(replace(CHAMPION, name="again"), incumbent=CHAMPION, best_baseline=BASELINE)

    assert not decision.promote
    assert "already" in decision.reason


def test_a_model_with_leaking_scores_is_not_promoted():
    decision = decide(scores("gru", gain=0.5, is_leaking=True), incumbent=None, best_baseline=BASELINE)

    assert not decision.promote
    assert "leaking" in decision.reason


def test_test_scores_decide_nothing():
    with pytest.raises(ValueError, match="chosen on the validation split, got test"):
        decide(scores("gru", split="test"), incumbent=None, best_baseline=BASELINE)


@pytest.mark.parametrize(
    "changes", [{"fingerprint": "e" * 64}, {"split": "test"}, {"target_rows": np.arange(1, 1 + NUM_ARTICLES * EACH)}]
)
def test_scores_of_other_targets_are_never_compared(changes):
    with pytest.raises(ValueError, match="compared"):
        decide(scores("gru", gain=0.1), incumbent=replace(CHAMPION, **changes), best_baseline=BASELINE)


def test_one_article_is_not_enough_to_promote():
    one = np.zeros(NUM_ARTICLES * EACH, np.int64)

    decision = decide(
        scores("gru", gain=0.1, articles=one), incumbent=replace(CHAMPION, articles=one), best_baseline=BASELINE
    )

    assert not decision.promote
    assert "on one article, which gives no interval" in decision.reason
    assert "not above zero" not in decision.reason


@given(st.floats(-0.05, 0.05), st.integers(0, 1000))
def test_promotion_is_exactly_a_lower_bound_above_zero(gain, seed):
    decision = decide(scores("gru", gain=gain, seed=seed), incumbent=CHAMPION, best_baseline=BASELINE)

    assert decision.promote == (decision.gain.low > 0)
    assert decision.as_json()["gain"]["mean"] == decision.gain.mean


def test_the_interval_is_corrected_for_the_number_of_candidates():
    challenger = scores("gru", gain=0.0235, seed=3)
    others = [scores(f"trial {seed}", gain=0.02, seed=seed) for seed in range(100, 204)]

    alone = decide(challenger, incumbent=CHAMPION, best_baseline=BASELINE)
    best_of_many = decide(challenger, incumbent=CHAMPION, best_baseline=BASELINE, others=others)

    assert alone.promote
    assert not best_of_many.promote
    assert best_of_many.gain.mean == pytest.approx(alone.gain.mean)
    assert best_of_many.gain.low < alone.gain.low
    assert (alone.num_candidates, best_of_many.num_candidates) == (1, 105)
    assert "corrected for 105 candidates" in best_of_many.reason


def test_a_large_gain_is_promoted_among_many_candidates():
    others = [scores(f"trial {seed}", gain=0.02, seed=seed) for seed in range(100, 204)]

    assert decide(scores("gru", gain=0.04), incumbent=CHAMPION, best_baseline=BASELINE, others=others).promote


def test_candidates_of_other_targets_are_refused():
    with pytest.raises(ValueError, match="compared"):
        decide(CHAMPION, incumbent=None, best_baseline=BASELINE, others=[scores("gru", fingerprint="e" * 64)])
