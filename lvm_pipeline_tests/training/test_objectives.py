import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.objectives import OBJECTIVES, objective_named

TARGETS = F.normalize(torch.randn(4, 6, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
ALL = torch.ones(4, 6, dtype=torch.bool)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_is_lost_by_the_truth_and_about_one_by_no_knowledge(name):
    objective = objective_named(name)
    assert objective(TARGETS, TARGETS, ALL) == pytest.approx(0, abs=1e-6)
    unrelated = torch.randn(4, 6, 64, generator=torch.Generator().manual_seed(1)) * 1e-3
    assert objective(unrelated, TARGETS, ALL) == pytest.approx(1, abs=0.1)


def test_terms_are_weighed():
    predictions = F.normalize(TARGETS + 0.05, dim=-1)
    cosine, mse = (objective_named(name)(predictions, TARGETS, ALL) for name in ("cosine", "mse"))
    for text in ("cosine + 0.25 mse", "cosine+.25*mse", " 1.0 cosine + 0.25mse "):
        torch.testing.assert_close(objective_named(text)(predictions, TARGETS, ALL), cosine + 0.25 * mse)


def test_positions_that_do_not_count_change_nothing():
    is_target = ALL.clone()
    is_target[:, 3:] = False
    changed = TARGETS.clone()
    changed[:, 3:] = 7.0
    for name in OBJECTIVES:
        assert objective_named(name)(changed, TARGETS, is_target) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("text", ["", "loss", "cosine - mse", "cosine mse", "cosine + ", "-1 cosine", "2"])
def test_other_texts_are_refused(text):
    with pytest.raises(LvmError, match="cosine, mse"):
        objective_named(text)
