"""Principal directions are those of the vectors given, also when others were fitted before."""

import torch

from lvm_pipeline.architectures import _directions
from lvm_pipeline.architectures._directions import NUM_KEPT, principal_directions


def drawn(seed, scale):
    return torch.randn(200, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor(scale) + 5


def test_directions_diagonalise_the_covariance_largest_first():
    vectors = drawn(0, [1.0, 9.0, 3.0])
    found = principal_directions(vectors)

    covariance = torch.cov(vectors.double().T, correction=0)
    assert torch.allclose(found.directions.T @ covariance @ found.directions, torch.diag(found.variances), atol=1e-9)
    assert found.variances.tolist() == sorted(found.variances.tolist(), reverse=True)
    assert found.directions[1, 0].abs() > 0.99


def test_equal_vectors_are_fitted_once_and_changed_ones_anew(monkeypatch):
    monkeypatch.setattr(_directions, "_kept", {})
    vectors = drawn(1, [1.0, 2.0, 3.0])
    first = principal_directions(vectors)
    assert principal_directions(vectors.clone()) is first

    vectors[0, 0] += 1
    changed = principal_directions(vectors)
    assert not torch.equal(changed.variances, first.variances)
    for seed in range(2, 2 + NUM_KEPT):
        principal_directions(drawn(seed, [1.0, 2.0, 3.0]))
    assert len(_directions._kept) == NUM_KEPT


def test_one_direction_is_enough():
    found = principal_directions(torch.tensor([[1.0], [3.0]]))

    assert (found.directions.abs().tolist(), found.variances.tolist()) == ([[1.0]], [1.0])
