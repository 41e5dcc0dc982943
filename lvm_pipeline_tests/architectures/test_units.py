"""Unit vectors and cosines against PyTorch's, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from lvm_pipeline.architectures._units import cosines, unit
from lvm_pipeline_tests.architectures.models import noise


def vectors(*shape, seed=0):
    found = noise(*shape, seed=seed) * 3
    found[..., 1, :] = 0
    return found.requires_grad_()


def gradient(values, of):
    weights = noise(*values.shape, seed=9)
    return torch.autograd.grad((values * weights).sum(), of)[0]


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
def test_unit_vectors(shape):
    given = vectors(*shape)
    found, expected = unit(given), F.normalize(given, dim=-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient(found, given), gradient(expected, given), rtol=1e-12, atol=1e-12)


def test_cosines():
    predictions, targets = vectors(5, 7), noise(5, 7, seed=1)
    found, expected = cosines(predictions, targets), F.cosine_similarity(predictions, targets, dim=-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient(found, predictions), gradient(expected, predictions), rtol=1e-12, atol=1e-12)
