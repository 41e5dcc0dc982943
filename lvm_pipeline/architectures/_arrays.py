"""Tensors as NumPy arrays of the same memory, for compiled loops."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a contiguous tensor on the CPU as an array; bfloat16, which NumPy does not have, as its bits in uint16."""
    tensor = tensor.detach()
    assert tensor.is_contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
