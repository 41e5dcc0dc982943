"""The term that trains a model's ranking head: a softmax over train concepts.

Shapes: n = positions that count, M = candidates, D = vector width.
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

SOFT_TEMPERATURE = 0.05  # of the spread target: cosines to the true concept are divided by it


class RankingTerm(TermModule):
    """Cross-entropy of the true concept among train concepts, as a share of guessing; see `ranking`."""

    reads_states = True
    bank: Tensor
    first_rows: Tensor
    step: Tensor

    def __init__(self, sources: TermSources, *, options: "RankingOptions", num_drawn: int, first_soft_step: int):
        """Fit the head's directions and keep where articles begin.

        Args:
            sources: The model with its head, vectors and data.
            options: Of the strategy.
            num_drawn: Train concepts drawn at each step.
            first_soft_step: Step from which the target is spread.
        """
        super().__init__()
        self.options, self.num_drawn, self.first_soft_step = options, num_drawn, first_soft_step
        self.vectors = sources.vectors
        articles = sources.data.articles
        starts = [*articles.first_rows.tolist(), int(articles.first_rows[-1] + articles.lengths[-1])]
        self.register_buffer("first_rows", torch.tensor(starts), persistent=False)
        self.register_buffer("bank", torch.from_numpy(sources.data.train_rows()), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        head = sources.model.get_submodule(MODULE)
        assert isinstance(head, RankingHead)
        head.fit(torch.from_numpy(sources.data.train_sample()).to(sources.vectors.device))
        self._head = (head,)  # in a tuple, since its weights are the model's and not the term's

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        """Return the term; see the contract."""
        assert states is not None
        (head,) = self._head
        self.step += 1
        rows = batch.rows[batch.is_target]
        article = torch.searchsorted(self.first_rows, rows, right=True) - 1
        candidates = self._candidates(article)
        queries = head(
            batch.contexts, states if self.options.ranking_trains_mixers else states.detach(), batch.is_target
        )
        with torch.autocast(predictions.device.type, enabled=False):
            directions = F.normalize(self.vectors[candidates].float(), dim=-1)
            logits = queries @ directions.T * head.log_scale.exp()
            if not self.options.context_negatives:
                is_read = (candidates >= self.first_rows[article][:, None]) & (candidates < rows[:, None])
                logits = logits.masked_fill(is_read, -1e9)
            own = torch.searchsorted(candidates, rows)
            loss = F.cross_entropy(logits, own)
            if self.options.soft_weight and int(self.step) > self.first_soft_step:
                near = (directions[own] @ directions.T / SOFT_TEMPERATURE).masked_fill(logits < -1e8, -1e9)
                spread = F.cross_entropy(logits, near.softmax(dim=-1))
                loss = (1 - self.options.soft_weight) * loss + self.options.soft_weight * spread
            return loss / math.log(len(candidates))

    def _candidates(self, article: Tensor) -> Tensor:
        """Return the rows of the batch's articles and of a fresh sample of train concepts, each once, ascending."""
        drawn = self.bank[torch.randperm(len(self.bank))[: self.num_drawn].to(self.bank.device)]
        found = article.unique()
        own = [torch.arange(int(self.first_rows[i]), int(self.first_rows[i + 1])) for i in found.tolist()]
        return torch.cat([drawn, *(each.to(drawn.device) for each in own)]).unique()
