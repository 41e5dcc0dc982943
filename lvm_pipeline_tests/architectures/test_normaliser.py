import numpy as np
import pytest
import torch
from sklearn.preprocessing import RobustScaler

from lvm_pipeline.architectures._normaliser import RobustNormaliser
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, build, noise


@pytest.fixture(scope="module")
def long_tailed():
    """Rows (N, D) of Student's t with three degrees of freedom, each dimension moved and stretched."""
    rng = np.random.default_rng(0)
    return 3 * rng.standard_t(3, size=(4000, 6)) * np.arange(1, 7) + np.arange(6)


def fitted(rows):
    normaliser = RobustNormaliser(rows.shape[1])
    normaliser.fit(torch.from_numpy(rows))
    return normaliser


def test_scale_is_the_interquartile_range_of_a_unit_normal(long_tailed):
    normaliser = fitted(long_tailed)
    quartiles = np.percentile(long_tailed, [25, 50, 75], axis=0)
    np.testing.assert_allclose(normaliser.scale, 0.7413 * (quartiles[2] - quartiles[0]), rtol=1e-4)
    np.testing.assert_allclose(normaliser.center, quartiles[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(normaliser.scale, 3 * 1.134 * np.arange(1, 7), rtol=0.06)  # of the distribution itself


def test_quartiles_are_percents_where_percents_are_expected(long_tailed):
    right = RobustScaler(quantile_range=(25, 75), unit_variance=True).fit(long_tailed)
    wrong = RobustScaler(quantile_range=(0.25, 0.75), unit_variance=True).fit(long_tailed)
    np.testing.assert_allclose(fitted(long_tailed).scale, right.scale_, rtol=1e-5)
    assert (wrong.scale_ > 2 * right.scale_).all()


def test_normalised_rows_have_the_median_zero_and_come_back(long_tailed):
    normaliser, vectors = fitted(long_tailed), torch.from_numpy(long_tailed).float()
    normalised = normaliser(vectors)
    torch.testing.assert_close(normalised.median(dim=0).values, torch.zeros(6), rtol=0, atol=1e-2)
    torch.testing.assert_close(normaliser.undo(normalised), vectors, rtol=1e-5, atol=1e-4)


def test_outliers_do_not_move_it(long_tailed):
    spoiled = long_tailed.copy()
    spoiled[:40] *= 1e6
    np.testing.assert_allclose(fitted(spoiled).scale, fitted(long_tailed).scale, rtol=0.05)


def test_a_dimension_without_spread_is_only_centred():
    normaliser = fitted(np.tile([2.0, 0.0], (10, 1)))
    assert normaliser.scale.tolist() == [1, 1]
    assert normaliser.center.tolist() == [2, 0]


@pytest.mark.parametrize("name", ["lcm", "lcm_two_tower"])
def test_it_is_saved_with_the_weights(name):
    model = build(name)
    model.fit(5 + 3 * noise(200, VECTOR_DIM, dtype=torch.float32))
    other = build(name, seed=1)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.normaliser.scale, model.normaliser.scale)
    assert (other.normaliser.center > 4).all()


def test_predictions_of_lcm_move_and_stretch_with_the_space():
    rows, contexts = noise(300, VECTOR_DIM, dtype=torch.float32), noise(2, 7, VECTOR_DIM, seed=2, dtype=torch.float32)
    stretch, shift = torch.linspace(0.5, 4, VECTOR_DIM), torch.linspace(-3, 3, VECTOR_DIM)
    model = build("lcm", head="none", unit_length=False).eval()
    model.fit(rows)
    expected = model(contexts) * stretch + shift
    model.fit(rows * stretch + shift)
    torch.testing.assert_close(model(contexts * stretch + shift), expected, rtol=1e-4, atol=1e-4)
