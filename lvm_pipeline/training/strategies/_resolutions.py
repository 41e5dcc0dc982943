"""Heads for vectors in fewer principal directions, their term in the objective, and the model seen at one width.

Shapes: n = positions that count, H = hidden width, D = vector width, R = a lower width.

    low_R = normalise(prediction @ basis[:, :R] + W_R h)        W_R starts at zero
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._ranking_head import predict_with_states
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.terms import TermModule, TermSources

MODULE = "resolution_heads"  # its name in the model


class ResolutionHeads(nn.Module):
    """One linear head for each lower width, and the principal directions that the widths are counted in."""

    basis: Tensor

    def __init__(self, vector_dim: int, hidden_dim: int, widths: Sequence[int]):
        super().__init__()
        self.widths = tuple(widths)
        self.register_buffer("basis", torch.eye(vector_dim))
        self.heads = nn.ModuleList(nn.Linear(hidden_dim, width) for width in widths)
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    @torch.no_grad()
    def fit(self, train_vectors: Tensor) -> None:
        """Set the principal directions of train vectors (N, D), leading ones first."""
        vectors = train_vectors.double()
        _, directions = torch.linalg.eigh(vectors.T @ vectors)
        self.basis.copy_(directions.flip(1))

    def at_width(self, vectors: Tensor, width: int) -> Tensor:
        """Return vectors (n, D) in the leading directions, (n, R)."""
        return vectors.to(self.basis.dtype) @ self.basis[:, :width]

    def forward(self, predictions: Tensor, states: Tensor) -> list[Tensor]:
        """Return the prediction at each lower width, (n, R), from full ones (n, D) and hidden states (n, H)."""
        return [
            F.normalize(self.at_width(predictions, width) + head(states.to(self.basis.dtype)), dim=-1)
            for width, head in zip(self.widths, self.heads, strict=True)
        ]


class ResolutionTerm(TermModule):
    """Mean over the lower widths of 1 - cosine to the target, plus a part of 1 - cosine to the full prediction."""

    reads_states = True

    def __init__(self, sources: TermSources, *, consistency: float):
        """Fit the model's principal directions; `consistency` weighs the agreement with the full prediction."""
        super().__init__()
        self.consistency = consistency
        heads = sources.model.get_submodule(MODULE)
        assert isinstance(heads, ResolutionHeads)
        heads.fit(torch.from_numpy(sources.data.train_sample()).to(sources.vectors.device))
        self._heads = (heads,)  # in a tuple, since its weights are the model's and not the term's

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        assert states is not None
        (heads,) = self._heads
        targets = batch.chosen_targets()
        with torch.autocast(predictions.device.type, enabled=False):
            losses = []
            for width, low in zip(heads.widths, heads(predictions, states), strict=True):
                loss = 1 - F.cosine_similarity(low, heads.at_width(targets, width), dim=-1).mean()
                agreement = F.cosine_similarity(low, heads.at_width(predictions, width), dim=-1).mean()
                losses.append(loss + self.consistency * (1 - agreement))
            return torch.stack(losses).mean()


class AtWidth(LatentVectorModel):
    """A model with resolution heads, seen at one lower width: predictions in its directions, zeros in the others."""

    def __init__(self, model: LatentVectorModel, width: int):
        super().__init__(model.config)
        self.model, self.width = model, width
        self.max_context, self.is_causal = model.max_context, model.is_causal

    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        heads = self.model.get_submodule(MODULE)
        assert isinstance(heads, ResolutionHeads)
        predictions, states = predict_with_states(self.model, contexts, condition, at)
        low = heads(predictions, states)[heads.widths.index(self.width)]
        return F.pad(low, (0, predictions.shape[-1] - self.width))
