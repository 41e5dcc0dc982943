"""A second output that ranks candidates for the next concept, in addition to the prediction of its vector.

The best vector by cosine is not the best query for ranking, so the two need different outputs. Two steps:

1. A query finds the nearest candidates by cosine: the decayed mean 0.5 of the context, mildly whitened. It is not
   trained: a query that learned by softmax ranked worse than its start.
2. A small network orders the first M of them by their cosines to K views of the context, f (2K):

    s_c = a f_c + w gelu(W (f_c - 0.2) * 4 + b)

The views are the last four concepts (cosine 0 where there are fewer), the decayed means 0.3, 0.5, 0.85 and 1, and the
prediction; f holds their cosines to the candidate in the space as it is and in the whitened space. It starts at the
whitened cosine to the decayed mean 0.5.

Shapes: B = batch, T = context in concepts, D = vector width, K = views, n = positions, M = candidates of a position.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._directions import principal_directions
from lvm_pipeline.architectures._precision import without_autocast

DECAYS = (0.3, 0.5, 0.85, 1.0)
NUM_LAGS = 4
NUM_VIEWS = NUM_LAGS + len(DECAYS) + 1
START = NUM_LAGS + DECAYS.index(0.5)  # the view that finds the candidates
WHITENING = -0.5  # power of the standard deviations
HIDDEN = 32
USUAL_COSINE, SPREAD = 0.2, 0.25  # of the cosines; brings them to about unit scale
RANKED = 200  # candidates that the network orders; those behind them keep the order of the query
MODULE = "ranking_head"  # its name in a model


class RankingHead(nn.Module):
    """Views of the context, and a small network that scores candidates by their cosines to them."""

    whitening: Tensor
    decays: Tensor

    def __init__(self, vector_dim: int):
        """Start at the decayed mean; `fit` sets the whitening."""
        super().__init__()
        self.register_buffer("whitening", torch.eye(vector_dim))
        self.register_buffer("decays", torch.tensor(DECAYS), persistent=False)
        self.linear = nn.Linear(2 * NUM_VIEWS, 1, bias=False)
        self.hidden = nn.Linear(2 * NUM_VIEWS, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1, bias=False)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[0, NUM_VIEWS + START] = 1.0
            self.out.weight.zero_()

    @torch.no_grad()
    def fit(self, train_vectors: Tensor) -> None:
        """Set the whitening: each principal direction of train vectors (N, D), by its spread to the power -0.5."""
        found = principal_directions(train_vectors)
        largest = found.variances.max().clamp(min=1e-12)
        weights = found.variances.clamp(min=1e-4 * float(largest)).sqrt() ** WHITENING
        self.whitening.copy_((found.directions * (weights / weights.mean())) @ found.directions.T)

    def views(self, contexts: Tensor, predictions: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the views of the context at each position, (B, T, K, D), or (n, K, D) where `at` (B, T) is True.

        `contexts` are (B, T, D); the model's `predictions` (B, T, D), or (n, D) where `at` is True.
        """
        with without_autocast(contexts):
            contexts = contexts.float()
            lags = [F.pad(contexts, (0, 0, lag, 0))[:, : contexts.shape[1]] for lag in range(NUM_LAGS)]
            found = torch.cat([torch.stack(lags, dim=-2), self._means(contexts)], dim=-2)
            found = found if at is None else found[at]
            return torch.cat([found, predictions.float()[..., None, :]], dim=-2)

    def query(self, views: Tensor) -> Tensor:
        """Return the unit query that finds candidates, (..., D), from views (..., K, D)."""
        return F.normalize(views[..., START, :] @ self.whitening, dim=-1)

    def whitened(self, vectors: Tensor) -> Tensor:
        """Return unit directions of vectors (..., D) in the whitened space."""
        return F.normalize(vectors.float() @ self.whitening, dim=-1)

    def score(self, views: Tensor, candidates: Tensor, whitened: Tensor) -> Tensor:
        """Score candidates, (n, M), from views (n, K, D); the highest is ranked first.

        `candidates` are unit directions (n, M, D), `whitened` the same in the whitened space.
        """
        with without_autocast(views):
            plain = candidates @ F.normalize(views, dim=-1).transpose(-1, -2)
            cosines = torch.cat([plain, whitened @ self.whitened(views).transpose(-1, -2)], dim=-1)
            hidden = F.gelu(self.hidden((cosines - USUAL_COSINE) / SPREAD))
            return (self.linear(cosines) + self.out(hidden))[..., 0]

    def _means(self, contexts: Tensor) -> Tensor:
        """Return the decayed means at each position, (B, T, J, D)."""
        positions = torch.arange(contexts.shape[1], device=contexts.device)
        lags = positions[:, None] - positions
        weights = self.decays[:, None, None] ** lags.clamp(min=0) * (lags >= 0)
        shares = weights / weights.sum(dim=-1, keepdim=True)
        return torch.einsum("jts,bsd->btjd", shares, contexts)


class RankingOutput(LatentVectorModel):
    """Wraps a model with a ranking head: `forward` returns the head's views, flat (..., K D), instead of predictions.

    It carries no state; views of an article are made from the article so far.
    """

    def __init__(self, model: LatentVectorModel):
        super().__init__(model.config)
        self.model = model
        self.max_context, self.is_causal = model.max_context, model.is_causal

    @property
    def head(self) -> RankingHead:
        head = self.model.get_submodule(MODULE)
        assert isinstance(head, RankingHead)
        return head

    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        return self.head.views(contexts, self.model(contexts, condition, at), at).flatten(-2)


def ranking_output(model: LatentVectorModel) -> RankingOutput | None:
    """Wrap a model that has a ranking head; return None for others."""
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
