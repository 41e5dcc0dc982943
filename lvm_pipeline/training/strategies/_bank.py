"""A softmax over concepts of the train split: the nearest-concept decoder in training.

Shapes: n = positions that count, K = bank concepts drawn, D = vector width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.terms import TermModule, TermSources


class BankCrossEntropy(TermModule):
    """Cross-entropy of the true next concept among itself and a sample of the bank, divided by that of guessing."""

    bank: Tensor

    def __init__(self, sources: TermSources, *, num_drawn: int, temperature: float):
        """Keep the bank, every concept of the train split, of which each step draws `num_drawn`."""
        super().__init__()
        self.vectors, self.num_drawn, self.temperature = sources.vectors, num_drawn, temperature
        self.register_buffer("bank", torch.from_numpy(sources.data.train_rows()), persistent=False)

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        """Return the cross-entropy divided by that of guessing.

        A drawn concept that is the target of a position is not counted there.
        """
        rows = batch.rows[batch.is_target]
        drawn = self.bank[torch.randperm(len(self.bank))[: self.num_drawn].to(self.bank.device)]
        with torch.autocast(predictions.device.type, enabled=False):
            found = F.normalize(predictions.float(), dim=-1)
            own = (found * F.normalize(batch.chosen_targets().float(), dim=-1)).sum(dim=-1, keepdim=True)
            others = found @ F.normalize(self.vectors[drawn].float(), dim=-1).T
            others = others.masked_fill(rows[:, None] == drawn, float("-inf"))
            logits = torch.cat([own, others], dim=1) / self.temperature
            target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
            return F.cross_entropy(logits, target) / math.log(1 + self.num_drawn)
