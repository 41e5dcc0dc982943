"""The term that trains a model's ranking head: the mean logarithm of the target's rank, made smooth.

    rank = 1 + sum_c sigmoid((s_c - s_target) / temperature)       over the candidates that the query finds first

Compared with the reciprocal rank and a softmax, the logarithm reached the highest MRR in the fewest steps.

Shapes: n = targets, C = concepts to choose from, M = candidates, K = views, D = vector width.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._ranking_head import MODULE, RankingHead
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.terms import TermModule, TermSources

if TYPE_CHECKING:
    from lvm_pipeline.training.strategies.ranking import RankingOptions

LEFT_OUT = -2.0  # below every cosine


class RankingTerm(TermModule):
    """Mean logarithm of the smooth rank of the targets among train concepts, divided by that of guessing."""

    bank: Tensor
    first_rows: Tensor

    def __init__(self, sources: TermSources, *, options: "RankingOptions", num_drawn: int):
        super().__init__()
        self.options, self.num_drawn = options, num_drawn
        self.vectors = sources.vectors
        articles = sources.data.articles
        starts = [*articles.first_rows.tolist(), int(articles.first_rows[-1] + articles.lengths[-1])]
        self.register_buffer("first_rows", torch.tensor(starts), persistent=False)
        self.register_buffer("bank", torch.from_numpy(sources.data.train_rows()), persistent=False)
        head = sources.model.get_submodule(MODULE)
        assert isinstance(head, RankingHead)
        head.fit(torch.from_numpy(sources.data.train_sample()).to(sources.vectors.device))
        self._head = (head,)  # in a tuple, since its weights are the model's and not the term's

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        (head,) = self._head
        rows = batch.rows[batch.is_target]
        concepts = self._concepts(torch.searchsorted(self.first_rows, rows, right=True) - 1)
        views = head.views(batch.contexts, predictions.detach(), batch.is_target)
        chosen = torch.randperm(len(rows))[: self.options.ranked_targets].to(rows.device)
        with torch.autocast(predictions.device.type, enabled=False):
            directions = F.normalize(self.vectors[concepts].float(), dim=-1)
            candidates = self._candidates(head.query(views[chosen]) @ directions.T, concepts, rows[chosen])
            scores = head.score(views[chosen], directions[candidates], head.whitened(directions)[candidates])
            is_ahead = torch.sigmoid((scores[:, 1:] - scores[:, :1]) / self.options.ranking_temperature)
            return torch.log1p(is_ahead.sum(dim=1)).mean() / math.log(1 + scores.shape[1] / 2)

    def _candidates(self, cosines: Tensor, concepts: Tensor, rows: Tensor) -> Tensor:
        """Return indices into `concepts`, (n, M): the target, then the candidates nearest to the query."""
        targets = torch.searchsorted(concepts, rows)[:, None]
        cosines = cosines.scatter(1, targets, LEFT_OUT)
        if not self.options.context_negatives:
            first = self.first_rows[torch.searchsorted(self.first_rows, rows, right=True) - 1]
            is_read = (concepts >= first[:, None]) & (concepts < rows[:, None])
            cosines = cosines.masked_fill(is_read, LEFT_OUT)
        # The smallest number that any target has left, so that no excluded concept is chosen.
        most = min(self.options.ranked_candidates, int((cosines > LEFT_OUT).sum(dim=1).min()))
        return torch.cat([targets, cosines.topk(most, dim=1).indices], dim=1)

    def _concepts(self, article: Tensor) -> Tensor:
        """Return the rows of the batch's articles and of a fresh sample of train concepts, each once, ascending."""
        drawn = self.bank[torch.randperm(len(self.bank))[: self.num_drawn].to(self.bank.device)]
        found = article.unique()
        own = [torch.arange(int(self.first_rows[i]), int(self.first_rows[i + 1])) for i in found.tolist()]
        return torch.cat([drawn, *(each.to(drawn.device) for each in own)]).unique()
