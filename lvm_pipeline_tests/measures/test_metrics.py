import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.measures.metrics import SpreadMeter, closeness, cosines


def test_a_perfect_prediction_has_the_perfect_value_of_each_measure():
    targets = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)

    means = closeness(targets, targets, np.ones(8, np.float32)).means()

    assert means["cosine"] == pytest.approx(1, abs=1e-6)
    assert means["centred_cosine"] == pytest.approx(1, abs=1e-6)
    assert (means["mse"], means["l2"]) == (0, 0)
    assert means["norm_ratio"] == pytest.approx(1)


def test_measures_of_a_worked_example():
    measured = closeness(
        np.array([[3.0, 4.0]], np.float32), np.array([[0.0, 1.0]], np.float32), np.array([0.0, 0.5], np.float32)
    )

    assert measured.cosine[0] == pytest.approx(0.8)
    assert measured.centred_cosine[0] == pytest.approx(3.5 / np.hypot(3, 3.5))
    assert measured.mse[0] == pytest.approx((9 + 9) / 2)
    assert measured.l2[0] == pytest.approx(np.sqrt(18))
    assert measured.norm_ratio[0] == pytest.approx(5)


def test_the_mean_vector_earns_cosine_but_no_centred_cosine():
    rng = np.random.default_rng(1)
    targets = (rng.standard_normal((400, 16)) + 2).astype(np.float32)
    mean = targets.mean(axis=0)

    means = closeness(np.repeat(mean[None], 400, axis=0), targets, mean).means()

    assert means["cosine"] > 0.8
    assert means["centred_cosine"] == pytest.approx(0, abs=1e-3)


@given(st.floats(0.1, 10), st.integers(0, 2**31))
def test_scale_moves_the_norm_ratio_and_not_the_cosine(scale, seed):
    rng = np.random.default_rng(seed)
    predictions, targets = rng.standard_normal((2, 5, 4)).astype(np.float32)

    plain = closeness(predictions, targets, np.zeros(4, np.float32)).means()
    scaled = closeness(np.float32(scale) * predictions, targets, np.zeros(4, np.float32)).means()

    assert scaled["cosine"] == pytest.approx(plain["cosine"], abs=1e-4)
    assert scaled["norm_ratio"] == pytest.approx(scale * plain["norm_ratio"], rel=1e-3)


def test_zero_vectors_have_cosine_zero():
    assert cosines(np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)).tolist() == [0, 0]


def spread_of(predictions, targets, mean, block=7):
    meter = SpreadMeter(mean.astype(np.float32))
    for start in range(0, len(targets), block):
        part = slice(start, start + block)
        meter.add(predictions[part].astype(np.float32), targets[part].astype(np.float32))
    return meter.spread()


def test_spread_is_that_of_the_written_out_formula():
    rng = np.random.default_rng(2)
    predictions, targets = rng.standard_normal((2, 40, 6)) + 0.5
    mean = rng.standard_normal(6)

    spread = spread_of(predictions, targets, mean)

    directions = predictions / np.linalg.norm(predictions, axis=1, keepdims=True)
    wanted = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    assert spread.prediction_variance == pytest.approx(directions.var(axis=0).sum(), rel=1e-4)
    assert spread.target_variance == pytest.approx(wanted.var(axis=0).sum(), rel=1e-4)
    assert spread.cosine_to_mean == pytest.approx((directions @ mean).mean() / np.linalg.norm(mean), rel=1e-4)


def test_a_constant_prediction_has_no_spread():
    targets = np.random.default_rng(3).standard_normal((30, 6))

    assert spread_of(np.ones((30, 6)), targets, np.ones(6)).variance_fraction == pytest.approx(0, abs=1e-6)
    assert spread_of(targets, targets, np.ones(6)).variance_fraction == pytest.approx(1)
