import numpy as np
import pytest
from sklearn.linear_model import Ridge

from lvm_pipeline.measures import ridge
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.ridge import RIDGE, RIDGE_RESIDUAL, fit_ridges, flat_contexts
from lvm_pipeline_tests.measures.processes import targets_of_process


@pytest.fixture
def train():
    """Vectors, target rows and articles of a walk."""
    targets = targets_of_process("random_walk", vector_dim=8)
    return targets.vectors, targets.train.target_rows, targets.train.articles


@pytest.mark.parametrize("share", [1, 0.6], ids=["every target", "targets with gaps between them"])
def test_ridge_is_scikit_learns_for_the_penalty_chosen(train, share):
    vectors, rows, articles = train
    is_used = np.random.default_rng(0).random(len(rows)) < share
    rows, articles = rows[is_used], articles[is_used]
    found = fit_ridges(vectors, rows, articles, num_lags=3)[RIDGE]

    contexts = flat_contexts(vectors, rows, 3).astype(np.float64)
    peer = Ridge(alpha=found.penalty).fit(contexts, vectors[rows])

    np.testing.assert_allclose(found.predict(vectors, rows), peer.predict(contexts), atol=1e-3)


def test_ridge_residual_is_scikit_learns_on_what_the_weighted_sum_leaves(train):
    vectors, rows, articles = train
    found = fit_ridges(vectors, rows, articles, num_lags=3)[RIDGE_RESIDUAL]

    contexts = flat_contexts(vectors, rows, 3).astype(np.float64)
    lags = contexts.reshape(len(rows), 3, -1)
    weights = np.linalg.lstsq(lags.transpose(0, 2, 1).reshape(-1, 3), vectors[rows].ravel(), rcond=None)[0]
    weighted = np.einsum("sld,l->sd", lags, weights)
    peer = Ridge(alpha=found.penalty).fit(contexts, vectors[rows] - weighted)

    np.testing.assert_allclose(found.predict(vectors, rows), weighted + peer.predict(contexts), atol=1e-3)


def test_flat_contexts_are_in_reading_order():
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)

    assert flat_contexts(vectors, np.array([3, 5]), 2).tolist() == [[2, 3, 4, 5], [6, 7, 8, 9]]


def test_penalty_is_chosen_on_train_articles_that_were_held_out(train):
    vectors, rows, articles = train
    _, codes = np.unique(articles, return_inverse=True)
    held = codes % 5 == 0
    contexts = flat_contexts(vectors, rows, 3)

    def score(penalty):
        peer = Ridge(alpha=penalty).fit(contexts[~held], vectors[rows[~held]])
        return cosines(peer.predict(contexts[held]).astype(np.float32), vectors[rows[held]]).mean()

    found = fit_ridges(vectors, rows, articles, num_lags=3)[RIDGE].penalty

    index = ridge.PENALTIES.index(found)
    neighbours = ridge.PENALTIES[max(0, index - 1) : index + 2]
    assert score(found) >= max(score(penalty) for penalty in neighbours) - 1e-6


def test_one_train_article_is_enough():
    vectors = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)

    found = fit_ridges(vectors, np.arange(5, 40), np.zeros(35, np.int64), num_lags=5)

    assert np.isfinite(found[RIDGE].predict(vectors, np.arange(5, 40))).all()


def test_blocks_do_not_change_the_fit(train, monkeypatch):
    vectors, rows, articles = train
    whole = fit_ridges(vectors, rows, articles, num_lags=2)[RIDGE]
    monkeypatch.setattr(ridge, "TARGETS_IN_A_BLOCK", 17)

    cut = fit_ridges(vectors, rows, articles, num_lags=2)[RIDGE]

    np.testing.assert_allclose(cut.coefficients, whole.coefficients, atol=1e-4)
