"""Feature-wise modulation (FiLM) of hidden states by a condition.

Paper: Perez et al., FiLM, 2017 (arXiv 1709.07871).

Shapes: B = batch, T = context in concepts, H = hidden width, C = condition width.

    scale, shift = W c + b        u = (1 + scale) h + shift        c = `unknown` (learned) where the condition is zero
"""

import torch
from torch import Tensor, nn


class Modulation(nn.Linear):
    """Condition (..., C) -> scale and shift, (..., 2 H). Starts without effect."""

    def __init__(self, condition_dim: int, hidden_dim: int):
        """Start at zero; the stand-in for an unknown condition starts at ones, so that it can learn."""
        super().__init__(condition_dim, 2 * hidden_dim)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.unknown = nn.Parameter(torch.ones(condition_dim))

    def forward(self, input: Tensor) -> Tensor:  # named as in nn.Linear
        is_known = (input != 0).any(-1, keepdim=True)
        return super().forward(torch.where(is_known, input, self.unknown.to(input.dtype)))
