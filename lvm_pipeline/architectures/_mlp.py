"""MLPs between the mixers; they work on each position alone.

Shapes: (B, T, H) -> (B, T, H), inner width F.

    Mlp     W_2 act(W_1 x + b_1) + b_2
    SwiGlu  W_2 (silu(W_g x) * W_1 x)                 (Shazeer, arXiv 2002.05202), biases where asked for
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    def __init__(self, width: int, inner_width: int, *, activation: Callable[[Tensor], Tensor] = F.gelu):
        super().__init__()
        self.widen = nn.Linear(width, inner_width)
        self.narrow = nn.Linear(inner_width, width)
        self.activation = activation

    def forward(self, states: Tensor) -> Tensor:
        return self.narrow(self.activation(self.widen(states)))


class SwiGlu(nn.Module):
    """A gated MLP; gate and values come from one product, the gate first."""

    def __init__(self, width: int, inner_width: int, *, has_bias: bool = False):
        super().__init__()
        self.widen = nn.Linear(width, 2 * inner_width, bias=has_bias)
        self.narrow = nn.Linear(inner_width, width, bias=has_bias)

    def forward(self, states: Tensor) -> Tensor:
        gate, values = self.widen(states).chunk(2, dim=-1)
        return self.narrow(F.silu(gate) * values)
