"""Inputs, weights, outputs and gradients of the authors' code, to hold ours against.

Tensors are named `in.*`, `w.*` (weights under the authors' names), `out.*` and `grad.*` (of the sum of
out times gout), behind a case's name where a file has several. What is stored in float64 was computed in
float64 on the same float32 inputs. Environment variable LVM_ORACLES names another folder of such files.
"""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file

# Read when tests are collected: while they run, no LVM_ variable is set.
FOLDER = Path(os.environ.get("LVM_ORACLES") or Path(__file__).parents[1] / "oracles").absolute()

OPERATOR_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
STACK_TOLERANCE = 2e-5
PRECISIONS = list(OPERATOR_TOLERANCE)


def oracle(name, case=None):
    """All tensors of a file, or those of one case without its name."""
    tensors = load_file(FOLDER / f"{name}.safetensors")
    return tensors if case is None else below(tensors, case)


def below(tensors, prefix):
    """What is named `prefix.*`, without the prefix."""
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def inputs(tensors, dtype):
    """The `in.*` by name as leaves of that precision, so that they collect gradients."""
    return {key: leaf(value, dtype) for key, value in below(tensors, "in").items() if value.is_floating_point()}


def leaf(tensor, dtype):
    return tensor.to(dtype, copy=True).requires_grad_()


def error(found, expected):
    """Largest difference, relative to the largest expected entry where there is any but zero."""
    assert found.shape == expected.shape
    return ((found.detach().double() - expected.double()).abs().max() / (expected.abs().max() or 1)).item()


def assert_equals(found, expected, tolerance):
    assert error(found, expected) <= tolerance
