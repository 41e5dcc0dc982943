"""RWKV's token shift: the states one position earlier.

Shapes: B = batch, T = context, H = hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def previous(states: Tensor, last: Tensor | None = None) -> Tensor:
    """Return (B, T, H) one position later; `last` (B, H) is the last earlier state, zeros at the start."""
    if last is None:
        return F.pad(states, (0, 0, 1, -1))
    return torch.cat([last[:, None].to(states.dtype), states[:, :-1]], dim=1)
