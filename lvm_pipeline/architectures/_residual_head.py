"""The weighted mean every model starts from: prediction = weights over the context . context + correction.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width, K = scales.

With x_s the concept at position s and h_t the mixers' state, position t gets

    weighted_t = sum_k weight_tk mean_tk
    mean_tk      = sum_{s<=t} decay_k^(t-s) x_s / sum_{s<=t} decay_k^(t-s)
    weight_t     = (1, article_weight, 0, ..., 0) / (1 + article_weight) + W h_t + b

The first scale's decay is learned and starts, as article_weight does, at the value fitted on train
articles; the second scale has decay 1, the mean of everything so far; the others are fixed. W and b
start at zero, so that training starts at the best weighted mean and not below it, and the mixers learn
when to look further back. Means are carried from concept to concept, so a step costs the same at any
length.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.architectures._precision import at_least_float32, without_autocast
from lvm_pipeline.errors import LvmError

START_DECAY = 0.7  # before anything is fitted: the usual recency-weighted mean

HeadState = tuple[Tensor, Tensor]  # decayed sums (B, K, D) and the sums of their weights (B, K)


class ResidualHead(nn.Module):
    """Weights over the context: one matrix product in parallel, a few running means with state."""

    optimiser_settings: ClassVar = {
        "decay": OptimiserSetting(weight_decay=False),
        "article_weight": OptimiserSetting(weight_decay=False),
    }

    fixed_decays: Tensor

    def __init__(self, hidden_dim: int, scales: tuple[float, ...]):
        """Start at the recency-weighted mean; `set_weighted_mean` puts the fitted values in.

        `scales` are the decays of the further means, from 0 (the last concept) to 1 (all alike).
        """
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(START_DECAY))
        self.article_weight = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("fixed_decays", torch.tensor([1.0, *scales]), persistent=False)
        self.attend = nn.Linear(hidden_dim, len(scales) + 2)
        nn.init.zeros_(self.attend.weight)
        nn.init.zeros_(self.attend.bias)

    @property
    def reads_states(self) -> bool:
        """Whether states of the mixers change anything, which they do not before training."""
        return bool(self.attend.weight.any())

    @torch.no_grad()
    def set_weighted_mean(self, *, decay: float, article_weight: float) -> None:
        """Start from a fitted decay and article weight."""
        check_weighted_mean(decay=decay, article_weight=article_weight)
        self.decay.fill_(decay)
        self.article_weight.fill_(article_weight)

    def forward(self, contexts: Tensor, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the weighted mean of contexts (B, T, D) at each position, (B, T, D) or (n, D), in float32 or wider.

        `states` are those of the mixers, (B, T, H), or (n, H) where `at` (B, T) is True.
        """
        with without_autocast(contexts):
            weights = self._weights(at_least_float32(states))
            if at is None:
                return self._weighted(at_least_float32(contexts), weights)
            weights_BTK = weights.new_zeros(*at.shape, weights.shape[-1])
            weights_BTK[at] = weights
            return self._weighted(at_least_float32(contexts), weights_BTK)[at]

    def _weighted(self, contexts: Tensor, weights_BTK: Tensor) -> Tensor:
        """Sum the contexts (B, T, D) by the weights of the scales at each position, (B, T, D)."""
        lags = _lags(contexts.shape[1], contexts.device)
        powers_KT = self._powers(contexts.shape[1])
        shares_KTT = _triangle(powers_KT, lags) / powers_KT.cumsum(1)[:, :, None]
        return torch.einsum("kts,btk->bts", shares_KTT, weights_BTK) @ contexts

    def prefill(self, contexts: Tensor, states: Tensor, state: HeadState | None) -> tuple[Tensor, HeadState]:
        """Return the weighted mean of contexts that continue from `state` (None at the start), and the new state."""
        with without_autocast(contexts):
            contexts, states = at_least_float32(contexts), at_least_float32(states)
            batch, length, _ = contexts.shape
            powers_KT = self._powers(length + 1)
            sums_BKTD = torch.einsum("kts,bsd->bktd", _triangle(powers_KT, _lags(length, contexts.device)), contexts)
            totals_BKT = powers_KT[:, :-1].cumsum(1).expand(batch, -1, -1)
            if state is not None:
                sums_BKTD = sums_BKTD + powers_KT[:, 1:, None] * state[0][:, :, None]
                totals_BKT = totals_BKT + powers_KT[:, 1:] * state[1][:, :, None]
            means_BKTD = sums_BKTD / totals_BKT[..., None]
            weighted = torch.einsum("bktd,btk->btd", means_BKTD, self._weights(states))
            return weighted, (sums_BKTD[:, :, -1], totals_BKT[:, :, -1])

    def _weights(self, states: Tensor) -> Tensor:
        """Return the weight of each scale, (..., H) -> (..., K)."""
        article_weight = self.article_weight.clamp(min=0)
        start = torch.stack([torch.ones_like(article_weight), article_weight]) / (1 + article_weight)
        from_states = self.attend(states)
        return from_states + torch.cat([start, start.new_zeros(from_states.shape[-1] - 2)])

    def _powers(self, length: int) -> Tensor:
        """Return decay^lag of each scale, (K, length)."""
        decays = torch.cat([self.decay.clamp(0, 1)[None], self.fixed_decays.to(self.decay.dtype)])
        return decays[:, None] ** torch.arange(length, device=decays.device, dtype=decays.dtype)


def check_weighted_mean(*, decay: float, article_weight: float) -> None:
    if not 0.0 <= decay <= 1.0 or not 0.0 <= article_weight < float("inf"):
        raise LvmError(
            f"The weighted mean cannot be used: decay {decay}, article weight {article_weight}; fit it again."
        )


def _lags(length: int, device: torch.device) -> Tensor:
    """Return how far concept s lies before position t, (T, T); negative above the diagonal."""
    positions = torch.arange(length, device=device)
    return positions[:, None] - positions[None, :]


def _triangle(powers_KT: Tensor, lags: Tensor) -> Tensor:
    return powers_KT[:, lags.clamp(min=0)] * (lags >= 0)
