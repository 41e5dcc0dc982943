"""Dropout with cheap random numbers: the right share, the right scale, repeatable."""

import pytest
import torch
from torch import nn

from lvm_pipeline.architectures._dropout import Dropout, dropout, levels


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 255, 1025, 5000])
def test_a_loop_drops_what_the_formula_says(count, dtype):
    states = torch.linspace(1, 2, count).to(dtype)
    torch.manual_seed(2)
    seed = torch.empty((), dtype=torch.int64).random_(-(1 << 63), None)
    torch.manual_seed(2)
    found = dropout(states, 0.25, training=True)
    expected = (states.double() * 4 / 3 * (levels(seed, count) >= 65536 // 4)).to(dtype)
    torch.testing.assert_close(found, expected, rtol=2e-7 if dtype != torch.float64 else 1e-15, atol=0)


def test_levels_are_uniform_and_places_independent():
    found = torch.stack([levels(torch.tensor(seed), 2048) for seed in (0, 1 << 20, -(1 << 63), 12345)]).double() / 65535
    assert (found.mean(1) - 0.5).abs().max() < 4 * (1 / 12 / 2048) ** 0.5
    correlations = torch.corrcoef(torch.cat([found, found.roll(1, 1), found.roll(256, 1), found.roll(1024, 1)]))
    assert (correlations - torch.eye(16)).abs().max() < 0.11


def test_compiled_code_drops_the_same():
    states = torch.randn(3, 700)
    compiled = torch.compile(lambda each: dropout(each, 0.4, training=True), backend="aot_eager")
    torch.manual_seed(5)
    plain = dropout(states, 0.4, training=True)
    torch.manual_seed(5)
    assert torch.equal(compiled(states), plain)


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
