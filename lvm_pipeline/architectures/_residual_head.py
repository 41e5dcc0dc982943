"""The arithmetic every model starts from: prediction = weights over the context . context + correction.

Shapes: B = batch, T = context in concepts, D = vector width, K = lags with a weight of their own.

With x_s the concept at position s, position t gets

    arithmetic_t = (decayed_t + article_weight * mean_t) / (1 + article_weight) + sum_{k<K} lag_k x_{t-k}
    decayed_t    = sum_{s<=t} decay^(t-s) x_s / sum_{s<=t} decay^(t-s)
    mean_t       = mean_{s<=t} x_s

decay and article_weight start at the values fitted on train articles and the lag weights at zero, so
that training starts at the best trivial baseline and not below it.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.errors import LvmError

START_DECAY = 0.7  # before anything is fitted: the recency-weighted mean of FIELD_NOTES' baselines

HeadState = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class ResidualHead(nn.Module):
    """Weights over the context, O(T^2) as one matrix product in parallel and O(1) a concept with state."""

    optimiser_settings: ClassVar = {
        "decay": OptimiserSetting(weight_decay=False),
        "article_weight": OptimiserSetting(weight_decay=False),
        "lag_weights": OptimiserSetting(weight_decay=False),
    }

    def __init__(self, num_lags: int):
        """Start at the recency-weighted mean; `set_arithmetic` puts the fitted values in."""
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(START_DECAY))
        self.article_weight = nn.Parameter(torch.tensor(0.0))
        self.lag_weights = nn.Parameter(torch.zeros(num_lags))

    @torch.no_grad()
    def set_arithmetic(self, *, decay: float, article_weight: float) -> None:
        """Start from a fitted decay and article weight.

        Raises:
            LvmError: If decay is outside 0 to 1 or the article weight is negative.
        """
        if not 0.0 <= decay <= 1.0 or not 0.0 <= article_weight < float("inf"):
            raise LvmError(
                f"The fitted arithmetic cannot be used: decay {decay}, article weight {article_weight}; fit it again."
            )
        self.decay.fill_(decay)
        self.article_weight.fill_(article_weight)
        self.lag_weights.zero_()

    def forward(self, contexts: Tensor) -> Tensor:
        """Return the arithmetic of every position, (B, T, D) -> (B, T, D), in float32 or wider."""
        with torch.autocast(contexts.device.type, enabled=False):
            contexts = _at_least_float32(contexts)
            return self.weights(contexts.shape[1]).to(contexts.dtype) @ contexts

    def weights(self, length: int) -> Tensor:
        """Return the weight of concept s in the arithmetic of position t, (T, T), zero above the diagonal."""
        positions = torch.arange(length, device=self.decay.device)
        lags_TT = positions[:, None] - positions[None, :]
        is_past = lags_TT >= 0
        powers = self._powers(length)
        decayed = powers[lags_TT.clamp(min=0)] * is_past / powers.cumsum(0)[:, None]
        mean = is_past / (positions + 1)[:, None]
        share = self._article_share()
        by_lag = F.pad(self.lag_weights, (0, max(0, length - len(self.lag_weights))))
        return (1 - share) * decayed + share * mean + by_lag[lags_TT.clamp(min=0)] * is_past

    def prefill(self, contexts: Tensor, state: HeadState | None) -> tuple[Tensor, HeadState]:
        """Return the arithmetic of contexts (B, T, D) that continue from `state`, and the state after them."""
        with torch.autocast(contexts.device.type, enabled=False):
            contexts = _at_least_float32(contexts)
            return self._continue(contexts, self._start(contexts) if state is None else state)

    def _continue(self, contexts: Tensor, state: HeadState) -> tuple[Tensor, HeadState]:
        decayed, weight, total, count, recent = state
        length = contexts.shape[1]
        powers = self._powers(length + 1).to(contexts.dtype)
        lags = torch.arange(length, device=contexts.device)
        lags = lags[:, None] - lags[None, :]
        triangle = powers[lags.clamp(min=0)] * (lags >= 0)
        decayed_BTD = triangle @ contexts + powers[1:, None] * decayed[:, None]
        weight_BT = powers[:-1].cumsum(0) + powers[1:] * weight
        total_BTD = total[:, None] + contexts.cumsum(1)
        count_BT = count + torch.arange(1, length + 1, device=contexts.device)
        share = self._article_share()
        arithmetic = (1 - share) * decayed_BTD / weight_BT[..., None] + share * total_BTD / count_BT[..., None]
        joined = torch.cat([recent, contexts], dim=1)
        num_recent = recent.shape[1]
        for lag, lag_weight in enumerate(self.lag_weights):
            arithmetic = arithmetic + lag_weight * joined[:, num_recent - lag : joined.shape[1] - lag]
        recent = joined[:, joined.shape[1] - num_recent :]
        return arithmetic, (decayed_BTD[:, -1], weight_BT[:, -1:], total_BTD[:, -1], count_BT[:, -1:], recent)

    def _start(self, contexts: Tensor) -> HeadState:
        batch, _, vector_dim = contexts.shape
        nothing, none = contexts.new_zeros(batch, vector_dim), contexts.new_zeros(batch, 1)
        return nothing, none, nothing, none, contexts.new_zeros(batch, max(0, len(self.lag_weights) - 1), vector_dim)

    def _powers(self, length: int) -> Tensor:
        exponents = torch.arange(length, device=self.decay.device, dtype=self.decay.dtype)
        return self.decay.clamp(0, 1) ** exponents

    def _article_share(self) -> Tensor:
        weight = self.article_weight.clamp(min=0)
        return weight / (1 + weight)


def _at_least_float32(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()
