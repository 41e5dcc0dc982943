import math

import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.objectives import OBJECTIVES, SumOfTerms, WeightedTerm, objective_named

TARGETS = F.normalize(torch.randn(4, 6, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
ALL = torch.ones(4, 6, dtype=torch.bool)


def loss(objective, predictions, targets, is_target):
    """The objective of predictions at every position, (B, T, D), where `is_target`."""
    rows = torch.arange(1, is_target.numel() + 1).view(is_target.shape)
    return objective(predictions[is_target], Batch(contexts=targets, targets=targets, is_target=is_target, rows=rows))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_is_lost_by_the_truth_and_about_one_by_no_knowledge(name):
    objective = objective_named(name)
    assert loss(objective, TARGETS, TARGETS, ALL) == pytest.approx(0, abs=2e-3 if name == "infonce" else 1e-6)
    unrelated = torch.randn(4, 6, 768, generator=torch.Generator().manual_seed(1)) * 1e-3
    assert loss(objective, unrelated, TARGETS, ALL) == pytest.approx(1, abs=0.1)


def test_terms_are_weighed():
    predictions = F.normalize(TARGETS + 0.05, dim=-1)
    cosine, mse = (loss(objective_named(name), predictions, TARGETS, ALL) for name in ("cosine", "mse"))
    for text in ("cosine + 0.25 mse", "cosine+.25*mse", " 1.0 cosine + 0.25mse "):
        torch.testing.assert_close(loss(objective_named(text), predictions, TARGETS, ALL), cosine + 0.25 * mse)


def test_positions_that_do_not_count_change_nothing():
    is_target = ALL.clone()
    is_target[:, 3:] = False
    changed = TARGETS.clone()
    changed[:, 3:] = 7.0
    for name in OBJECTIVES:
        objective = objective_named(name)
        assert loss(objective, changed, TARGETS, is_target) == loss(
            objective, TARGETS[:, :3], TARGETS[:, :3], is_target[:, :3]
        )


@pytest.mark.parametrize("num_candidates", [2, 24, 400])
def test_guessing_costs_one_whatever_the_number_of_candidates(num_candidates):
    """The raw loss is log n: 0.7, 3.2 and 6.0, which is what unbalanced sums with other losses (F14)."""
    targets = torch.randn(1, num_candidates, 768, generator=torch.Generator().manual_seed(2))
    undecided = torch.ones_like(targets) - targets.mean(dim=1, keepdim=True)
    is_target = torch.ones(1, num_candidates, dtype=torch.bool)
    assert loss(objective_named("infonce"), undecided, targets, is_target) == pytest.approx(1, abs=0.15)


def test_the_contrastive_term_is_the_written_out_formula():
    predictions = TARGETS + 0.05 * torch.randn(4, 6, 768, generator=torch.Generator().manual_seed(3))
    cosines = F.normalize(predictions[ALL], dim=-1).double() @ TARGETS[ALL].double().T
    scores = torch.exp(cosines / 0.1)
    expected = -torch.log(scores.diagonal() / scores.sum(dim=1)).mean() / math.log(24)
    assert loss(objective_named("infonce"), predictions, TARGETS, ALL) == pytest.approx(float(expected), rel=1e-4)


def test_a_scaled_sum_starts_at_its_weights_and_one_term_alone_is_left_as_it_is():
    predictions = F.normalize(TARGETS + 0.05, dim=-1)
    alone = {name: float(loss(objective_named(name), predictions, TARGETS, ALL)) for name in ("cosine", "infonce")}
    mixed = objective_named("cosine + 0.25 infonce").scaled_by(alone)
    assert loss(mixed, predictions, TARGETS, ALL) == pytest.approx(1.25, rel=1e-5)
    assert loss(mixed, TARGETS, TARGETS, ALL) == pytest.approx(0, abs=0.05)
    single = objective_named("2 infonce")
    assert single.scaled_by({"infonce": 7.0}) is single


def test_a_term_that_costs_nothing_at_the_start_does_not_blow_up():
    (term, _) = objective_named("cosine + mse").scaled_by({"cosine": 0.0, "mse": 1.0}).terms
    assert term.scale == 0.01


def test_shares_of_two_equal_terms_are_halves_and_of_their_weights_otherwise():
    predictions, targets = F.normalize(TARGETS + 0.05, dim=-1)[ALL], TARGETS[ALL]
    equal = SumOfTerms((WeightedTerm(name="cosine", weight=1.0), WeightedTerm(name="mse", weight=0.5)))
    for is_unit in (True, False):  # of unit vectors |p - t|^2 = 2 (1 - cos): half the squared error is the cosine loss
        shares = equal.shares(predictions, targets, is_unit=is_unit)
        assert shares["cosine"].of_value == pytest.approx(0.5, abs=1e-3)
    assert equal.shares(predictions, targets, is_unit=True)["mse"].of_gradient == pytest.approx(0.5, abs=1e-3)
    thrice = SumOfTerms((equal.terms[0], WeightedTerm(name="mse", weight=1.5)))
    assert thrice.shares(predictions, targets, is_unit=True)["mse"].of_gradient == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("text", ["cosine + cosine", "mse + 0.1 infonce + mse"])
def test_a_term_is_named_once(text):
    with pytest.raises(LvmError, match="twice"):
        objective_named(text)


@pytest.mark.parametrize("text", ["", "loss", "cosine - mse", "cosine mse", "cosine + ", "-1 cosine", "2"])
def test_other_texts_are_refused(text):
    with pytest.raises(LvmError, match="cosine, mse"):
        objective_named(text)
