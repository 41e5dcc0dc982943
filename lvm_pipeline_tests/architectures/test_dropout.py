"""Dropout with cheap random numbers: the right share, the right scale, repeatable."""

import pytest
import torch
from torch import nn

from lvm_pipeline.architectures._dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_drops_the_stated_share_and_keeps_the_expectation(probability):
    torch.manual_seed(0)
    kept = dropout(torch.ones(1000, 401), probability, training=True)
    assert (kept == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert kept.max().item() == pytest.approx(1 / (1 - probability), rel=1e-4)


def test_neighbours_and_rows_are_dropped_independently():
    torch.manual_seed(0)
    is_kept = (dropout(torch.ones(4000, 64), 0.5, training=True) > 0).float() - 0.5
    correlations = 4 * (is_kept.T @ is_kept) / len(is_kept)
    assert (correlations - torch.eye(64)).abs().max() < 0.1


def test_same_seed_drops_the_same_and_gradients_follow():
    states = torch.randn(5, 7, requires_grad=True)
    torch.manual_seed(3)
    one = dropout(states, 0.4, training=True)
    torch.manual_seed(3)
    assert torch.equal(dropout(states, 0.4, training=True), one)
    one.sum().backward()
    assert torch.equal(states.grad * states, one)


def test_module_drops_nothing_in_evaluation_or_at_zero():
    states = torch.randn(4, 6)
    assert torch.equal(Dropout(0.5).eval()(states), states)
    assert torch.equal(Dropout(0.0)(states), states)
    assert isinstance(Dropout(0.5), nn.Dropout)
