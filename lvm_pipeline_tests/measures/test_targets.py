import numpy as np
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.targets import find_targets
from lvm_pipeline_tests.measures.processes import process_vectors, targets_on

LENGTHS = (8, 7, 9, 10, 8, 8, 7, 8, 2, 8)


def test_windows_read_the_concepts_right_before_their_target():
    targets = targets_on(process_vectors("noise", lengths=LENGTHS), LENGTHS)

    assert (targets.scored.target_rows - targets.scored.first_rows == 5).all()
    assert targets.scored.target_rows.tolist() == list(range(24 + 5, 34))


def test_articles_are_read_from_their_start():
    targets = targets_on(process_vectors("noise", lengths=LENGTHS), LENGTHS, context_mode="articles")

    assert targets.scored.first_rows.tolist() == [24] * 5
    assert targets.scored.articles.tolist() == [3] * 5


def test_pool_and_train_rows_hold_whole_articles_even_those_too_short_for_a_target():
    targets = targets_on(process_vectors("noise", lengths=LENGTHS), LENGTHS)

    assert targets.pool_rows.tolist() == [*range(24, 34), *range(65, 67)]
    assert targets.train_rows.tolist() == [*range(24), *range(42, 65)]
    assert set(targets.pool_rows) & set(targets.train_rows) == set()


def test_train_mean_is_that_of_the_train_articles():
    vectors = process_vectors("noise", lengths=LENGTHS)
    targets = targets_on(vectors, LENGTHS)

    np.testing.assert_allclose(targets.train_mean, vectors[targets.train_rows].mean(axis=0), atol=1e-6)


def test_an_empty_split_is_reported():
    with pytest.raises(LvmError, match="test split holds no sequence"):
        targets_on(process_vectors("noise", lengths=LENGTHS[:4]), LENGTHS[:4], split="test")


def crossing_targets(context_mode):
    """Windows over article boundaries, the last fifth of them validation: the compatibility mode."""
    target_rows = np.arange(5, 40)
    splits = np.where(target_rows >= 33, "validation", "train")
    return find_targets(
        process_vectors("noise", lengths=(10,) * 4),
        article_first_rows=np.arange(0, 40, 10),
        article_splits=np.array(["train", "train", "train", "validation"]),
        target_rows=target_rows,
        target_splits=splits,
        context_length=5,
        split="validation",
        context_mode=context_mode,
    )


def test_windows_that_cross_articles_cannot_be_read_as_articles():
    with pytest.raises(LvmError, match="compatibility mode"):
        crossing_targets("articles")


def test_windows_that_cross_articles_have_every_target_in_the_pool():
    targets = crossing_targets("windows")

    assert set(targets.scored.target_rows) <= set(targets.pool_rows)
