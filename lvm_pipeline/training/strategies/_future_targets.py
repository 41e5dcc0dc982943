"""Targets beyond the next concept, predicted by additional heads.

Shapes: D = vector width, H = hidden width, n = positions that count, N = concepts.

    prediction of offset k = prediction of the next concept + W_k h + b_k        W_k, b_k start at zero
    loss of offset k       = 1 - mean cosine to x_{t+k}, over the positions whose article is long enough
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.terms import TermModule, TermSources, mixers_of


class FutureTargets(TermModule):
    """The mean loss over some offsets and, if enabled, over the mean of the next few concepts."""

    reads_states = True
    vectors: Tensor
    article_ends: Tensor

    def __init__(self, sources: TermSources, *, offsets: tuple[int, ...], mean_of_next: int):
        """Make a head for each offset (1 is the next concept), and for the mean of `mean_of_next` concepts if not 0.

        Raises:
            LvmError: If the model has no hidden states.
        """
        super().__init__()
        articles = sources.data.articles
        ends = torch.from_numpy(articles.first_rows + articles.lengths)
        lengths = torch.from_numpy(articles.lengths)
        self.register_buffer("vectors", sources.vectors, persistent=False)
        self.register_buffer("article_ends", ends.repeat_interleave(lengths), persistent=False)
        self.ahead = [[offset] for offset in offsets]
        self.ahead += [list(range(1, mean_of_next + 1))] if mean_of_next else []
        mixers_of(sources.model)
        width = sources.model.get_submodule("input_projection").out_features
        assert isinstance(width, int)
        self.heads = nn.ModuleList(nn.Linear(width, sources.vectors.shape[1]) for _ in self.ahead)
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        assert states is not None
        rows = batch.rows[batch.is_target]
        losses = []
        for head, ahead in zip(self.heads, self.ahead, strict=True):
            is_known = rows + ahead[-1] - 1 < self.article_ends[rows]
            found = predictions + head(states).to(predictions.dtype)
            wanted = torch.stack([self.vectors[(rows + k - 1).clamp(max=len(self.vectors) - 1)] for k in ahead]).mean(0)
            costs = (1 - F.cosine_similarity(found, wanted.to(found.dtype), dim=-1)) * is_known
            losses.append(costs.sum() / is_known.sum().clamp(min=1))
        return torch.stack(losses).mean()
