"""A second output for ranking: queries that find the next concept among many, beside the prediction of its vector.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width, J = decayed means, R = rank.

    m^d_t  = sum_{s<=t} d^(t-s) x_s / sum_{s<=t} d^(t-s)                     x in the principal directions of train rows
    q_t    = normalise(sum_j g_j m^(d_j)_t + V (U_h h_t + U_m [m^0_t, m^0.7_t, m^1_t]))                    g_j: (D,)

What lies near the mean of all that may follow is not what tells the next concept from others, so the best vector for
cosine and the best query differ. V starts at zero and g at the decayed mean 0.5, mildly whitened: each direction times
its standard deviation to the power of -0.5. Candidates are ranked by the cosine to the query, turned back.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel, OptimiserSetting
from lvm_pipeline.architectures._dropout import Dropout

DECAYS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
START, SUMMARIES = 2, (0, 3, 5)  # the mean that the queries start at, and those that the correction reads
WHITENING = -0.5
LEADING_DIRECTIONS, RANK = 128, 64
INPUT_DROPOUT, CORRECTION_DROPOUT = 0.3, 0.5
START_SCALE = 14.0  # of the cosines in the softmax; learned
MODULE = "ranking_head"  # its name in a model


class RankingHead(nn.Module):
    """Queries from decayed means of the context, with a gain for each direction, and a correction of low rank."""

    optimiser_settings: ClassVar = {
        "gains": OptimiserSetting(weight_decay=False, learning_rate_factor=10.0),
        "log_scale": OptimiserSetting(weight_decay=False, learning_rate_factor=5.0),
        "correction_out": OptimiserSetting(learning_rate_factor=0.5),
    }
    basis: Tensor
    decays: Tensor

    def __init__(self, vector_dim: int, hidden_dim: int):
        """Start at the decayed mean; `fit` sets the directions and whitens."""
        super().__init__()
        self.leading = min(LEADING_DIRECTIONS, vector_dim)
        self.input_scale = vector_dim**0.5 / 2.5
        self.register_buffer("basis", torch.eye(vector_dim))
        self.register_buffer("decays", torch.tensor(DECAYS), persistent=False)
        self.gains = nn.Parameter(torch.zeros(len(DECAYS), vector_dim))
        self.log_scale = nn.Parameter(torch.tensor(START_SCALE).log())
        self.from_states = nn.Linear(hidden_dim, RANK, bias=False)
        self.from_means = nn.Linear(len(SUMMARIES) * self.leading, RANK, bias=False)
        self.correction_out = nn.Parameter(torch.zeros(RANK, vector_dim))
        self.dropout, self.correction_dropout = Dropout(INPUT_DROPOUT), Dropout(CORRECTION_DROPOUT)
        with torch.no_grad():
            self.gains[START] = 1.0

    @torch.no_grad()
    def fit(self, train_vectors: Tensor) -> None:
        """Set the principal directions of train vectors (N, D), and the whitening that the queries start with."""
        variances, directions = torch.linalg.eigh(torch.cov(train_vectors.double().T, correction=0))
        self.basis.copy_(directions.flip(1))
        largest = variances.max().clamp(min=1e-12)
        whitening = variances.flip(0).clamp(min=1e-4 * float(largest)).sqrt() ** WHITENING
        self.gains.zero_()
        self.gains[START] = (whitening / whitening.mean()).to(self.gains)

    def forward(self, contexts: Tensor, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Return unit queries in the space of the vectors.

        Args:
            contexts: (B, T, D).
            states: Of the mixers: (B, T, H), or (n, H) where `at` is True.
            at: Positions to predict at, bool (B, T); None: all.

        Returns:
            (B, T, D) or (n, D).
        """
        with torch.autocast(contexts.device.type, enabled=False):
            means = self._means(contexts.float() @ self.basis)
            means = means if at is None else means[at]
            inputs = means[..., SUMMARIES, : self.leading].flatten(-2) * self.input_scale
            correction = self.from_states(self.dropout(states.float())) + self.from_means(self.dropout(inputs))
            mixed = (means * self.gains).sum(dim=-2) + self.correction_dropout(correction) @ self.correction_out
            return F.normalize(mixed, dim=-1) @ self.basis.T

    def _means(self, rotated: Tensor) -> Tensor:
        """Return the decayed means at each position, (B, T, J, D)."""
        positions = torch.arange(rotated.shape[1], device=rotated.device)
        lags = positions[:, None] - positions
        weights = self.decays[:, None, None] ** lags.clamp(min=0) * (lags >= 0)
        shares = weights / weights.sum(dim=-1, keepdim=True)
        return torch.einsum("jts,bsd->btjd", shares, rotated)


class RankingOutput(LatentVectorModel):
    """A model with a ranking head, seen through it: `forward` returns queries and not predictions.

    It carries no state; queries of an article are made from the article so far.
    """

    def __init__(self, model: LatentVectorModel):
        """Look at a model; its weights stay where they are."""
        super().__init__(model.config)
        self.model = model
        self.max_context, self.is_causal = model.max_context, model.is_causal

    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Return the query after each position; see the contract."""
        head = self.model.get_submodule(MODULE)
        assert isinstance(head, RankingHead)
        _, states = predict_with_states(self.model, contexts, condition, at)
        return head(contexts, states, at)


def ranking_output(model: LatentVectorModel) -> RankingOutput | None:
    """Return the model seen through its ranking head; None if it has none."""
    return RankingOutput(model) if MODULE in dict(model.named_children()) else None


def predict_with_states(
    model: LatentVectorModel, contexts: Tensor, condition: Tensor | None, at: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return a model's predictions and the states of its mixers behind them, (B, T, H) or (n, H) where `at` is True."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kept.append(output)

    hook = model.get_submodule("mixers").register_forward_hook(keep)
    try:
        predictions = model(contexts, condition, at)
    finally:
        hook.remove()
    states = kept[-1]
    return predictions, states[at] if at is not None and states.ndim > predictions.ndim else states
