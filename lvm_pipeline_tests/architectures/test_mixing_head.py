import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvm_pipeline.architectures._mixing_head import MixingHead, reference_mixing
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures.models import noise, redraw

HIDDEN, WIDTH = 6, 16
SCALES = (0.0, 0.875)


def noisy_head(*, width=WIDTH, decay=0.6, article_weight=0.8):
    torch.manual_seed(0)
    head = redraw(MixingHead(width, HIDDEN, SCALES)).double().eval()
    head.fit(noise(50, width, seed=3) * 2.0)
    head.set_weighted_mean(decay=decay, article_weight=article_weight)
    return head


def inputs(batch, length, *, width=WIDTH):
    return noise(batch, length, width, seed=1), noise(batch, length, HIDDEN, seed=2)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([0.0, 0.7, 1.0]), st.floats(0, 4), st.integers(1, 12))
def test_equals_its_formula(decay, article_weight, length):
    head = noisy_head(decay=decay, article_weight=article_weight)
    contexts, states = inputs(2, length)
    torch.testing.assert_close(head(contexts, states), reference_mixing(head, contexts, states), rtol=0, atol=1e-10)


@torch.no_grad()
def test_tensors_without_gradients_equal_the_formula():
    head, (contexts, states) = noisy_head(), inputs(2, 9)
    torch.testing.assert_close(head(contexts, states), reference_mixing(head, contexts, states), rtol=0, atol=1e-10)


def test_gradients_reach_the_contexts():
    head, (contexts, states) = noisy_head(), inputs(2, 6)
    weights = noise(2, 6, WIDTH, seed=4)
    contexts.requires_grad_()
    found = torch.autograd.grad((head(contexts, states) * weights).sum(), [contexts, head.gains])
    expected = torch.autograd.grad((reference_mixing(head, contexts, states) * weights).sum(), [contexts, head.gains])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_gradients_equal_those_of_the_formula():
    head, (contexts, states) = noisy_head(), inputs(2, 7)
    weights, parameters = noise(2, 7, WIDTH, seed=4), list(head.parameters())
    found = torch.autograd.grad((head(contexts, states) * weights).sum(), parameters)
    expected = torch.autograd.grad((reference_mixing(head, contexts, states) * weights).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("length", [2, 9, 45, 120])
def test_noise_in_the_future_changes_nothing(length):
    head, (contexts, states) = noisy_head(), inputs(2, length)
    before = head(contexts, states)
    for start in {1, length // 2, length - 1}:
        changed = torch.cat([contexts[:, :start], 10 * noise(2, length - start, WIDTH, seed=9)], dim=1)
        after = head(changed, states)
        torch.testing.assert_close(after[:, :start], before[:, :start], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, start:], before[:, start:], atol=1e-3)


def test_gradients_of_some_positions_equal_those_of_the_formula():
    head, (contexts, states) = noisy_head(), inputs(3, 6)
    at = torch.zeros(3, 6, dtype=torch.bool)
    at[0, 1], at[1, 3:], at[2, 4] = True, True, True
    weights, parameters = noise(5, WIDTH, seed=4), list(head.parameters())
    found = torch.autograd.grad((head(contexts, states[at], at) * weights).sum(), parameters)
    expected = torch.autograd.grad((reference_mixing(head, contexts, states)[at] * weights).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_no_wanted_position_is_no_prediction():
    head, (contexts, states) = noisy_head(), inputs(2, 3)
    at = torch.zeros(2, 3, dtype=torch.bool)
    predictions = head(contexts, states[at], at)
    predictions.sum().backward()
    assert predictions.shape == (0, WIDTH)
    assert not head.gains.grad.any()


@pytest.mark.parametrize("has_states", [True, False])
def test_some_positions_are_those_of_all(has_states):
    head, (contexts, states) = noisy_head(), inputs(3, 5)
    at = torch.zeros(3, 5, dtype=torch.bool)
    at[0, 1], at[2, 3], at[2, 4] = True, True, True
    if has_states:
        torch.testing.assert_close(head(contexts, states[at], at), head(contexts, states)[at], rtol=0, atol=1e-12)
    else:
        torch.testing.assert_close(head(contexts, None, at), head(contexts, None)[at], rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_training", [True, False])
def test_bfloat16_products_change_predictions_by_rounding_only(is_training):
    torch.manual_seed(0)
    head = redraw(MixingHead(WIDTH, HIDDEN, SCALES)).eval()
    contexts, states = (part.float() for part in inputs(4, 9))
    with torch.set_grad_enabled(is_training):
        expected = head(contexts, states)
        with torch.autocast("cpu", torch.bfloat16):
            found = head(contexts, states)
    assert found.dtype == torch.float32
    error = (found - expected).norm() / expected.norm()
    assert 1e-6 < error < 0.02, error


def test_float64_stays_float64_under_autocast():
    head, (contexts, states) = noisy_head(), inputs(2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(contexts, states)
    torch.testing.assert_close(found, head(contexts, states), rtol=0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_continues_from_a_state_as_if_in_one_piece(lengths):
    head, (contexts, states) = noisy_head(), inputs(3, sum(lengths))
    state, pieces, start = None, [], 0
    for length in lengths:
        part = slice(start, start + length)
        piece, state = head.prefill(contexts[:, part], states[:, part], state)
        pieces.append(piece)
        start += length
    torch.testing.assert_close(torch.cat(pieces, dim=1), head(contexts, states), rtol=0, atol=1e-11)


def test_the_directions_of_the_space_do_not_matter_before_training():
    torch.manual_seed(0)
    head = MixingHead(WIDTH, HIDDEN, SCALES).double().eval()
    head.set_weighted_mean(decay=0.5, article_weight=1.2)
    contexts, states = inputs(2, 9)
    before = head(contexts, states)
    head.fit(3 * noise(60, WIDTH, seed=5))
    torch.testing.assert_close(head(contexts, states), before, rtol=0, atol=1e-6)  # the basis is found in float32
    assert not torch.equal(head.basis, torch.eye(WIDTH, dtype=torch.float64))


def test_fit_puts_the_widest_directions_first():
    head = MixingHead(4, HIDDEN, SCALES)
    head.fit(noise(500, 4, dtype=torch.float32) * torch.tensor([0.1, 3.0, 1.0, 0.3]))
    strongest = head.basis.abs().argmax(dim=0)
    assert strongest.tolist() == [1, 2, 3, 0]
    torch.testing.assert_close(head.basis.T @ head.basis, torch.eye(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_fits_fewer_vectors_than_directions(rows):
    head = MixingHead(WIDTH, HIDDEN, SCALES)
    head.fit(noise(rows, WIDTH, dtype=torch.float32))
    assert torch.isfinite(head(noise(1, 3, WIDTH, dtype=torch.float32), noise(1, 3, HIDDEN, dtype=torch.float32))).all()


@pytest.mark.parametrize(
    ("decay", "article_weight"), [(-0.1, 0), (1.1, 0), (float("nan"), 0), (0.5, -1), (0.5, float("inf"))]
)
def test_an_impossible_weighted_mean_is_refused(decay, article_weight):
    with pytest.raises(LvmError, match="fit it again"):
        noisy_head(decay=decay, article_weight=article_weight)
