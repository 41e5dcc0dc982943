"""Cells leave out no pair that is near, and most that are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.sequences import cells


@pytest.fixture(autouse=True)
def _many_cells(monkeypatch):
    monkeypatch.setattr(cells, "FEW_POINTS", 3)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pairs_met(points, reach):
    """How often each pair of different points meets, smaller number first."""
    met = {}
    for first, second in cells.candidate_blocks(points, reach):
        for index, point in enumerate(first.tolist()):
            for other in second[index + 1 if first is second else 0 :].tolist():
                pair = min(point, other), max(point, other)
                met[pair] = met.get(pair, 0) + 1
    return met


@given(
    st.integers(0, 10**6), st.integers(0, 120), st.sampled_from([1, 2, 5, 30]), st.sampled_from([0.0, 0.05, 0.2, 1.0])
)
def test_every_near_pair_meets_once(seed, num_points, width, reach):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((4, width))
    points = unit(
        centres[rng.integers(0, 4, num_points)] + rng.choice([0, 0.02, 0.5]) * rng.standard_normal((num_points, width))
    )
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=2)

    met = pairs_met(points, reach)

    assert set(met.values()) <= {1}
    near = {(i, j) for i in range(num_points) for j in range(i + 1, num_points) if distances[i, j] <= reach - 1e-6}
    assert near <= met.keys()


def test_neighbours_on_an_arc_meet_across_every_border():
    angles = np.linspace(-1.5, 1.5, 400)
    points = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    step = np.linalg.norm(points[1] - points[0])

    met = pairs_met(points, 1.01 * step)

    assert {(row, row + 1) for row in range(399)} <= met.keys()
    assert len(met) < 400 * 399 / 2 / 8


def test_of_many_topics_few_pairs_meet():
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((50, 32))
    points = unit(topics[rng.integers(0, 50, 3000)] + 0.4 * rng.standard_normal((3000, 32)))

    met = len(pairs_met(points, 0.14))

    assert met < 0.04 * 3000**2 / 2


def test_no_points_give_no_pairs():
    assert not pairs_met(np.zeros((0, 4), np.float32), 0.1)
