"""What stays in float32 (or float64 where the model is) under autocast."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()


def without_autocast(values: Tensor) -> torch.autocast:
    """Switch autocast off for the device of the values, as a context."""
    return torch.autocast(values.device.type, enabled=False)


def product_dtype(values: Tensor) -> torch.dtype:
    """Return the type in which products of the values are computed: autocast's, where that is on (never of float64)."""
    device = values.device.type
    if values.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return values.dtype
    return torch.get_autocast_dtype(device)
