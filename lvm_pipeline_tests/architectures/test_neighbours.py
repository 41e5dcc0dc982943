"""The correction by what similar predictions missed: by the formula, kept with its weights, and worth what it says."""

import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.architectures import _neighbours
from lvm_pipeline.architectures._ensemble import EnsembleConfig
from lvm_pipeline.architectures._neighbours import NeighbourCorrection
from lvm_pipeline.errors import LvmError

WIDTH = 16


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def fitted(predictions, targets):
    correction = NeighbourCorrection(WIDTH)
    correction.fit(predictions, targets)
    return correction


def test_it_is_the_kernel_regression_of_the_residuals():
    """With as many directions as the vectors have, the directions cancel out of the formula."""
    found, wanted, asked = unit(30, WIDTH), unit(30, WIDTH, seed=1), unit(4, WIDTH, seed=2)

    scale = sum(float(p @ y) for p, y in zip(found, wanted, strict=True)) / 30
    for prediction, corrected in zip(asked, fitted(found, wanted)(asked), strict=True):
        weights = [torch.exp(_neighbours.SHARPNESS * (prediction @ p)) for p in found]
        missed = sum(w * (y - scale * p) for w, p, y in zip(weights, found, wanted, strict=True)) / sum(weights)
        torch.testing.assert_close(corrected, F.normalize(scale * prediction + missed, dim=-1))


def test_a_fault_that_similar_predictions_share_is_mended():
    """Around each of two centres, targets lie to one side of the predictions."""
    centres, sides = unit(2, WIDTH), unit(2, WIDTH, seed=1)

    def drawn(seed):
        which = torch.arange(400) % 2
        found = F.normalize(
            centres[which] + 0.05 * torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(seed))
        )
        return found, F.normalize(found + 0.5 * sides[which], dim=-1)

    found, wanted = drawn(3)
    before, after = (float((each * wanted).sum(-1).mean()) for each in (found, fitted(*drawn(4))(found)))
    assert before < 0.95
    assert after > 0.99


def test_targets_that_predictions_miss_at_random_leave_them_nearly_as_they_are():
    found = unit(40_000, WIDTH)
    wanted = F.normalize(0.6 * found + 0.8 * unit(40_000, WIDTH, seed=1), dim=-1)
    asked = unit(50, WIDTH, seed=2)
    assert (fitted(found, wanted)(asked) * asked).sum(-1).min() > 0.98


def test_it_changes_nothing_before_it_is_fitted():
    asked = unit(2, 3, WIDTH)
    assert NeighbourCorrection(WIDTH)(asked) is asked


def test_it_is_loaded_with_as_many_targets_as_it_kept():
    correction, asked = fitted(unit(30, WIDTH), unit(30, WIDTH, seed=1)), unit(5, 2, WIDTH, seed=2)
    loaded = NeighbourCorrection(WIDTH)
    loaded.load_state_dict(correction.state_dict(), strict=True)
    assert torch.equal(loaded(asked), correction(asked))
    assert len(loaded.keys) == 30


def test_of_many_targets_an_even_sample_is_kept(monkeypatch):
    monkeypatch.setattr(_neighbours, "MOST_KEPT", 7)
    found, wanted = unit(30, WIDTH), unit(30, WIDTH, seed=1)
    sampled = [number * 30 // 7 for number in range(7)]
    asked = unit(5, WIDTH, seed=2)
    torch.testing.assert_close(fitted(found, wanted)(asked), fitted(found[sampled], wanted[sampled])(asked))


def test_many_predictions_are_corrected_as_one_by_one(monkeypatch):
    correction, asked = fitted(unit(30, WIDTH), unit(30, WIDTH, seed=1)), unit(11, WIDTH, seed=2)
    whole = correction(asked)
    monkeypatch.setattr(_neighbours, "ROWS_AT_ONCE", 3)
    torch.testing.assert_close(correction(asked), whole)


def test_it_is_for_vectors_of_unit_length():
    with pytest.raises(LvmError, match="neighbours must be false where vectors are not of unit length"):
        EnsembleConfig(vector_dim=WIDTH, unit_length=False, neighbours=True)
