"""Standing figures have the values that can be said beforehand."""

import numpy as np
import pytest

from lvm_pipeline.measures import standing
from lvm_pipeline.measures.standing import (
    cluster_scores,
    contrastive_accuracy,
    effective_rank,
    fit_clusters,
    nearest_clusters,
)
from lvm_pipeline_tests.measures.processes import process_vectors, targets_of_process, targets_on


def test_the_target_itself_is_nearer_than_anything_and_noise_is_a_coin():
    targets = targets_of_process("noise", lengths=(30,) * 60)
    wanted = targets.vectors[targets.scored.target_rows]
    noise = np.random.default_rng(1).standard_normal(wanted.shape).astype(np.float32)

    right, guessed = (contrastive_accuracy(found, targets, seed=0) for found in (wanted, noise))

    assert (right.random, right.same_article) == (1, 1)
    assert (guessed.random, guessed.same_article) == (pytest.approx(0.5, abs=0.1), pytest.approx(0.5, abs=0.1))


def test_the_article_alone_does_not_tell_its_concepts_apart():
    lengths = (30,) * 60
    topics = process_vectors("copies", lengths=lengths)
    targets = targets_on(process_vectors("noise", lengths=lengths, seed=1) + 2 * topics, lengths)

    found = contrastive_accuracy(topics[targets.scored.target_rows], targets, seed=0)

    assert found.random > 0.9
    assert found.same_article == pytest.approx(0.5, abs=0.1)


def test_an_article_alone_in_its_pool_is_compared_with_itself():
    targets = targets_of_process("noise", lengths=(6,) * 5)  # one validation article with one target
    wanted = targets.vectors[targets.scored.target_rows]

    assert contrastive_accuracy(wanted, targets, seed=0).same_article == 1


def test_the_other_concept_is_of_the_same_article_where_the_next_article_is_too_short_for_a_target():
    targets = targets_of_process("copies", lengths=((20,) * 5 + (20, 20, 20, 4, 20)) * 4)
    wanted = targets.vectors[targets.scored.target_rows]

    assert contrastive_accuracy(wanted, targets, seed=0).same_article == 0  # all are equal, and ties count as wrong


def test_effective_rank_counts_the_directions_used():
    rng = np.random.default_rng(0)

    assert effective_rank(rng.standard_normal((4000, 8)).astype(np.float32)) == pytest.approx(8, abs=0.1)
    assert effective_rank(np.outer(rng.standard_normal(50), np.ones(8)).astype(np.float32)) == pytest.approx(1)
    assert effective_rank(np.ones((50, 8), np.float32)) == 1


def ranks_of_clusters(predictions, wanted, centroids):
    return cluster_scores(predictions, nearest_clusters(wanted, centroids), centroids)


def test_clusters_of_the_targets_are_found():
    vectors = process_vectors("copies", lengths=(4,) * 30)  # thirty points
    centroids = fit_clusters(vectors, np.arange(len(vectors)), seed=0)
    own = centroids[nearest_clusters(vectors, centroids)]
    right = ranks_of_clusters(vectors, vectors, centroids)
    same = ranks_of_clusters(np.ones_like(vectors), vectors, centroids)

    assert right.num_clusters == 30
    assert (vectors * own).sum(axis=1).mean() > 0.9
    assert same.accuracy < 0.2
    assert ranks_of_clusters(vectors, vectors, vectors[::4]).accuracy == 1
    assert ranks_of_clusters(-vectors, vectors, vectors[::4]).median_rank > 20


def test_centroids_are_the_means_of_their_concepts_in_every_number(monkeypatch):
    monkeypatch.setattr(standing, "CLUSTERED_DIRECTIONS", 1)
    vectors = 0.01 * np.random.default_rng(0).standard_normal((400, 30)).astype(np.float32)
    vectors[:, 0] += np.repeat([1, -1], 200)
    vectors[:, -1] += 0.2  # of both sides, so outside the leading direction

    centroids = fit_clusters(vectors, np.arange(400), seed=0)
    own = centroids[nearest_clusters(vectors, centroids)]

    np.testing.assert_allclose(np.abs(own[:, 0]), 1 / np.hypot(1, 0.2), atol=0.01)
    np.testing.assert_allclose(own[:, -1], 0.2 / np.hypot(1, 0.2), atol=0.03)


def test_one_concept_makes_one_cluster():
    centroids = fit_clusters(np.ones((3, 4), np.float32), np.arange(3), seed=0)

    assert ranks_of_clusters(np.ones((2, 4), np.float32), np.ones((2, 4), np.float32), centroids).accuracy == 1
