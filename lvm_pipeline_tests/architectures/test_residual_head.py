import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvm_pipeline.architectures._residual_head import ResidualHead
from lvm_pipeline.errors import LvmError

HIDDEN, WIDTH = 6, 4
SCALES = (0.0, 0.875)  # exact in float32 too


def head_with(decay, article_weight, *, noise=0.0):
    torch.manual_seed(0)
    head = ResidualHead(HIDDEN, SCALES).double()
    head.set_weighted_mean(decay=decay, article_weight=article_weight)
    torch.nn.init.normal_(head.attend.weight, std=noise)
    torch.nn.init.normal_(head.attend.bias, std=noise)
    return head


def inputs(batch, length):
    generator = torch.Generator().manual_seed(1)
    shapes = (batch, length, WIDTH), (batch, length, HIDDEN)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def expected_arithmetic(head, contexts, states):
    """The formula of the module, one concept at a time."""
    decays = [head.decay.item(), 1.0, *SCALES]
    start = np.array([1, head.article_weight.item(), 0, 0]) / (1 + head.article_weight.item())
    weights = start + (states @ head.attend.weight.T + head.attend.bias).detach().numpy()
    found = np.zeros(contexts.shape)
    for b, t in np.ndindex(*contexts.shape[:2]):
        rows = contexts[b, : t + 1].numpy()
        for k, decay in enumerate(decays):
            powers = np.array([decay ** (t - s) if t > s or decay else 1.0 for s in range(t + 1)])
            found[b, t] += weights[b, t, k] * (powers @ rows) / powers.sum()
    return found


@settings(max_examples=25)
@given(st.sampled_from([0.0, 0.3, 0.7, 0.999, 1.0]), st.floats(0, 4), st.integers(1, 9))
def test_equals_its_formula(decay, article_weight, length):
    head = head_with(decay, article_weight, noise=0.5)
    contexts, states = inputs(2, length)
    found = head(contexts, states).detach().numpy()
    np.testing.assert_allclose(found, expected_arithmetic(head, contexts, states), atol=1e-12)


@settings(max_examples=25)
@given(st.sampled_from([0.0, 0.6, 1.0]), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_goes_on_from_a_state_as_if_in_one_piece(decay, lengths):
    head = head_with(decay, 0.8, noise=0.5)
    contexts, states = inputs(3, sum(lengths))
    state, pieces, start = None, [], 0
    for length in lengths:
        part = slice(start, start + length)
        piece, state = head.prefill(contexts[:, part], states[:, part], state)
        pieces.append(piece)
        start += length
    torch.testing.assert_close(torch.cat(pieces, dim=1), head(contexts, states), rtol=0, atol=1e-12)


def test_the_state_does_not_grow():
    head = head_with(0.6, 0.8)
    contexts, states = inputs(1, 50)
    _, short = head.prefill(contexts[:, :2], states[:, :2], None)
    _, long = head.prefill(contexts, states, None)
    assert [tensor.shape for tensor in short] == [tensor.shape for tensor in long]


@pytest.mark.parametrize(
    ("decay", "article_weight"), [(-0.1, 0), (1.1, 0), (float("nan"), 0), (0.5, -1), (0.5, float("inf"))]
)
def test_an_impossible_arithmetic_is_refused(decay, article_weight):
    with pytest.raises(LvmError, match="fit it again"):
        head_with(decay, article_weight)


def test_stays_in_float32_under_autocast():
    head = ResidualHead(HIDDEN, SCALES)
    contexts, states = (tensor.float() for tensor in inputs(2, 5))
    with torch.autocast("cpu", torch.bfloat16):
        found = head(contexts, states)
    torch.testing.assert_close(found, head(contexts, states), rtol=0, atol=0)
