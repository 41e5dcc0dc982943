"""Ranking baselines and the hubness correction do what they are for, and never look at what is scored."""

import numpy as np
import pytest

from lvm_pipeline.measures.hubness import candidate_penalties, train_sample
from lvm_pipeline.measures.ranking import DECAYED_MEAN, RANKING_QUERY, fit_ranking_baselines
from lvm_pipeline.measures.retrieval import EARLIER_ROWS, target_ranks
from lvm_pipeline_tests.measures.processes import process_vectors, targets_of_process, targets_on


def mrr(predictions, targets, **options):
    return (1 / target_ranks(predictions, targets.scored, targets, **options)[EARLIER_ROWS]).mean()


def fitted(targets):
    return {baseline.name: baseline for baseline in fit_ranking_baselines(targets)}


def test_the_query_finds_what_no_mean_finds():
    """Two of eight directions change their sign from concept to concept; the others are noise."""
    rng = np.random.default_rng(0)
    lengths, signs = (12,) * 60, np.tile([1, -1], 360)[:, None]
    vectors = rng.standard_normal((720, 8))
    vectors[:, :2] = 3 * signs * np.repeat(rng.standard_normal((60, 2)), 12, axis=0)
    targets = targets_on(vectors.astype(np.float32), lengths, context_mode="articles")

    scores = {name: mrr(found.predict(targets.scored), targets) for name, found in fitted(targets).items()}
    copy_last = mrr(targets.vectors[targets.scored.target_rows - 1], targets)

    assert set(scores) == {DECAYED_MEAN, RANKING_QUERY}
    assert scores[RANKING_QUERY] > 2 * max(copy_last, scores[DECAYED_MEAN])


def test_the_decay_is_the_one_that_finds_most():
    walk = fitted(targets_of_process("random_walk", lengths=(15,) * 30))[DECAYED_MEAN]
    noise_around_a_mean = targets_on(
        process_vectors("noise", lengths=(15,) * 30) + 2 * process_vectors("copies", lengths=(15,) * 30), (15,) * 30
    )

    assert walk.fitted["decay"] < fitted(noise_around_a_mean)[DECAYED_MEAN].fitted["decay"]


@pytest.mark.parametrize("context_mode", ["windows", "articles"])
def test_nothing_is_fitted_on_what_is_scored(context_mode):
    lengths = (12,) * 10
    vectors = process_vectors("random_walk", lengths=lengths)
    targets = targets_on(vectors, lengths, context_mode=context_mode)
    changed = vectors.copy()
    changed[targets.pool_rows] = process_vectors("noise", lengths=lengths)[targets.pool_rows]
    other = targets_on(changed, lengths, context_mode=context_mode)

    pairs = zip(fit_ranking_baselines(targets), fit_ranking_baselines(other), strict=True)
    for own, found in pairs:
        assert own.fitted == found.fitted
        np.testing.assert_array_equal(own.predict(targets.train), found.predict(other.train))


def test_candidates_near_to_most_predictions_rank_lower():
    rng = np.random.default_rng(0)
    lengths, hub = (20,) * 40, rng.standard_normal(16)
    vectors = process_vectors("random_walk", lengths=lengths)
    targets = targets_on(vectors, lengths)
    predictions = vectors[targets.scored.target_rows] + 0.25 * rng.standard_normal((len(targets.scored), 16)) + hub
    train_predictions = rng.standard_normal((200, 16)) * 0.3 + hub

    penalties = candidate_penalties(targets, train_predictions.astype(np.float32))

    predictions = predictions.astype(np.float32)
    assert mrr(predictions, targets, penalties=penalties) > 1.2 * mrr(predictions, targets)
    assert mrr(predictions, targets, penalties=np.full_like(penalties, 0.3)) == mrr(predictions, targets)


def test_the_sample_of_train_targets_is_limited():
    targets = targets_of_process("noise", lengths=(100,) * 80, vector_dim=2)

    assert 2048 < len(train_sample(targets)) <= 4096 < len(targets.train)
