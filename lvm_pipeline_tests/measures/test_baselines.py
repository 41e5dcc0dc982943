"""Every baseline gives the known value on processes whose best predictor is known."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.measures.baselines import BASELINES, fit_baselines
from lvm_pipeline.measures.retrieval import CONTEXT_ROWS, EARLIER_ROWS, chance_scores, num_candidates
from lvm_pipeline.measures.scores import given_predictions, score_predictor
from lvm_pipeline.measures.targets import find_targets
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline_tests.measures.processes import process_vectors, targets_of_process, targets_on


def scores_on(targets):
    return {baseline.name: score_predictor(baseline.predict, targets).means() for baseline in fit_baselines(targets)}


def test_a_rotation_is_predicted_perfectly_by_the_ridges_alone():
    scores = scores_on(targets_of_process("rotation", lengths=(30,) * 60))

    assert scores["ridge"].cosine > 0.999
    assert scores["ridge_residual"].cosine > 0.999
    assert scores["ridge"].retrieval[CONTEXT_ROWS].r_at_1 > 0.95
    assert all(scores[name].cosine < 0.95 for name in ("copy_last", "context_mean", "recency_weighted_mean"))


def test_noise_is_predicted_by_nothing():
    targets = targets_of_process("noise", lengths=(30,) * 100, vector_dim=32)
    scores, chance = scores_on(targets), chance_scores(num_candidates(targets, CONTEXT_ROWS))

    for name, found in scores.items():
        assert found.cosine == pytest.approx(0, abs=0.05), name
        assert found.retrieval[CONTEXT_ROWS].r_at_10 == pytest.approx(chance.r_at_10, abs=0.03), name


def test_copies_are_predicted_perfectly_by_copying():
    scores = scores_on(targets_of_process("copies"))

    for name in ("copy_last", "context_mean", "recency_weighted_mean"):
        assert scores[name].cosine == pytest.approx(1, abs=1e-5)
        assert scores[name].mse == pytest.approx(0, abs=1e-8)
        assert scores[name].retrieval[CONTEXT_ROWS].r_at_1 == 0  # every copy is a tie, and ties count against
    assert abs(scores["global_mean"].cosine) < 0.5


def test_a_walk_is_predicted_by_copying_and_one_with_noise_by_averaging_recent_concepts():
    lengths = (40,) * 60
    walk = process_vectors("random_walk", lengths=lengths)
    noise = np.random.default_rng(9).standard_normal(walk.shape).astype(np.float32)
    scores = scores_on(targets_on(walk, lengths))
    noisy = scores_on(targets_on(unit_length(walk + 0.05 * noise), lengths))

    assert scores["recency_weighted_mean"].cosine == scores["copy_last"].cosine > scores["context_mean"].cosine
    assert scores["copy_last"].cosine > scores["global_mean"].cosine + 0.3
    for name in ("copy_last", "context_mean"):
        assert noisy["recency_weighted_mean"].cosine > noisy[name].cosine + 0.003


def test_the_article_mix_joins_where_contexts_are_longer_than_five():
    windows = [baseline.name for baseline in fit_baselines(targets_of_process("noise"))]
    articles = [baseline.name for baseline in fit_baselines(targets_of_process("noise", context_mode="articles"))]
    long = [baseline.name for baseline in fit_baselines(targets_of_process("noise", context_length=8))]

    assert windows == [name for name in BASELINES if name != "article_mean_mix"]
    assert articles == long == list(BASELINES)


def test_baselines_never_look_at_what_is_scored():
    lengths = (20,) * 20
    vectors = process_vectors("random_walk", lengths=lengths)
    targets = targets_on(vectors, lengths)
    fitted = {baseline.name: baseline.fitted for baseline in fit_baselines(targets)}
    changed = vectors.copy()
    changed[targets.pool_rows] = process_vectors("noise", lengths=lengths)[targets.pool_rows]
    other = targets_on(changed, lengths)

    assert {baseline.name: baseline.fitted for baseline in fit_baselines(other)} == fitted
    np.testing.assert_array_equal(other.train_mean, targets.train_mean)


def test_given_predictions_are_scored_on_their_own_targets():
    targets = targets_of_process("noise", lengths=(60,) * 200)
    assert len(targets.scored) > 2048  # more than one block
    truth = targets.vectors[targets.scored.target_rows]

    scores = score_predictor(given_predictions(truth, targets), targets)

    np.testing.assert_allclose(scores.closeness.cosine, 1, atol=1e-5)


TABLE = {  # the figures published with the data: cosine, R@1, R@10, MRR
    "global_mean": (0.229, 0.000, 0.004, 0.003),
    "copy_last": (0.487, 0.152, 0.488, 0.260),
    "context_mean": (0.561, 0.079, 0.389, 0.175),
    "recency_weighted_mean": (0.570, 0.108, 0.452, 0.219),
    "ridge": (0.546, 0.075, 0.371, 0.173),
    "ridge_residual": (0.581, 0.099, 0.446, 0.212),
}
TABLE_WITHOUT_EARLIER_ROWS = {  # R@1, R@10, MRR
    "copy_last": (0.237, 0.612, 0.358),
    "context_mean": (0.170, 0.576, 0.301),
    "recency_weighted_mean": (0.206, 0.624, 0.343),
}


@pytest.mark.slow
def test_the_published_table_is_reproduced(wikipedia_concepts, validation_articles):
    table = pq.read_table(wikipedia_concepts, columns=["article_id", "position", "vector"])
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1).astype(np.float32)
    positions = table["position"].to_numpy()
    listed = validation_articles.read_text().split()
    splits = np.where(np.isin(np.array(table["article_id"].to_pylist()), listed), "validation", "train")
    first_rows, target_rows = np.flatnonzero(positions == 0), np.flatnonzero(positions >= 5)

    targets = find_targets(
        vectors,
        article_first_rows=first_rows,
        article_splits=splits[first_rows],
        target_rows=target_rows,
        target_splits=splits[target_rows],
        context_length=5,
        split="validation",
        context_mode="windows",
    )
    scores = scores_on(targets)

    assert (len(targets.scored), len(targets.pool_rows)) == (2596, 2764)
    for name, row in TABLE.items():
        found = scores[name].retrieval[CONTEXT_ROWS]
        values = (scores[name].cosine, found.r_at_1, found.r_at_10, found.mrr)
        assert values == pytest.approx(row, abs=0.002), name
    for name, row in TABLE_WITHOUT_EARLIER_ROWS.items():
        found = scores[name].retrieval[EARLIER_ROWS]
        assert (found.r_at_1, found.r_at_10, found.mrr) == pytest.approx(row, abs=0.002), name
