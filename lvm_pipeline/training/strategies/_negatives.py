"""The contrastive term: the true next concept against negatives.

Shapes: D = vector width, n = positions that count, M = concepts of the bank that are drawn, m = negatives of a target.

    loss = -log( exp(p.y / tau) / (exp(p.y / tau) + sum_i exp(p.v_i / tau)) ) / log(1 + number of negatives)

p is a prediction, y its target, all of unit length; v_i are the negatives (InfoNCE, arXiv 1807.03748). The value of
guessing is 1.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.source.encoders.encoder import Encoder
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.terms import TermModule, TermSources

DRAWN_FROM_BANK = 2048
SAME_CONCEPT = 0.95  # candidates with a cosine to the target of this or more are not used as negatives


@dataclass(frozen=True, kw_only=True)
class WrittenNegatives:
    """Vectors of negatives that the table names, K in all; those of row r are `starts[r]` to `starts[r + 1]`."""

    vectors: NDArray[np.float32]
    starts: NDArray[np.int64]


def encode_negatives(
    data: TrainingData, encoder: Encoder, rows: NDArray[np.int64], *, limit: int, seed: int
) -> WrittenNegatives | None:
    """Encode the soft and hard negatives of some rows of train concepts; None if none of the rows has any.

    At most `limit` texts are encoded; others are left out, drawn by the seed.
    """
    assert data.concepts_path is not None
    columns = read_columns(data.concepts_path, ["soft_negatives", "hard_negatives"])
    lists = [columns[name].to_pylist() for name in ("soft_negatives", "hard_negatives")]
    owners: list[int] = []
    texts: list[str] = []
    for row in rows:
        found = dict.fromkeys(text for each in lists for text in (each[row] or ()) if text and text.strip())
        owners += [int(row)] * len(found)
        texts += found
    if not texts:
        return None
    kept = np.arange(len(texts))
    if len(texts) > limit:
        kept = np.sort(np.random.default_rng(seed).choice(len(texts), limit, replace=False))
    counts = np.bincount(np.array(owners)[kept], minlength=len(data.vectors))
    return WrittenNegatives(
        vectors=encoder.encode([texts[index] for index in kept]), starts=np.concatenate([[0], np.cumsum(counts)])
    )


class ContrastiveTerm(TermModule):
    """InfoNCE against concepts of the article, hard concepts of other train articles, and written negatives."""

    vectors: Tensor
    bank_rows: Tensor
    first_rows: Tensor
    lengths: Tensor
    articles: Tensor
    written: Tensor | None
    starts: Tensor | None

    def __init__(
        self,
        sources: TermSources,
        *,
        negatives: WrittenNegatives | None,
        num_own: int,
        num_hard: int,
        temperature: float,
    ):
        """Keep the bank of train concepts and the written negatives, where there are any.

        `num_own` negatives are of the target's own article, half of them from its context; `num_hard` are the concepts
        of other train articles that lie nearest to the target among those drawn.
        """
        super().__init__()
        data, device = sources.data, sources.vectors.device
        self.num_own, self.num_hard, self.temperature = num_own, num_hard, temperature
        index = np.repeat(np.arange(len(data.articles.lengths)), data.articles.lengths)
        buffers = {
            "vectors": sources.vectors,
            "bank_rows": torch.from_numpy(data.train_rows()),
            "first_rows": torch.from_numpy(data.articles.first_rows[index]),
            "lengths": torch.from_numpy(data.articles.lengths[index]),
            "articles": torch.from_numpy(index),
            "written": None if negatives is None else torch.from_numpy(negatives.vectors),
            "starts": None if negatives is None else torch.from_numpy(negatives.starts),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, None if tensor is None else tensor.to(device), persistent=False)

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        rows = batch.rows[batch.is_target]
        with torch.autocast(predictions.device.type, enabled=False):
            found = F.normalize(predictions.float(), dim=-1)
            targets = F.normalize(self.vectors[rows].float(), dim=-1)
            own = self._own(rows)
            parts = [
                self._scores(found, targets, self.vectors[own].float(), own != rows[:, None]),
                self._from_bank(found, targets, rows),
            ]
            if self.written is not None:
                parts.append(self._from_table(found, targets, rows))
            scores = torch.cat([(found * targets).sum(-1, keepdim=True), *parts], dim=1) / self.temperature
            guessing = torch.isfinite(scores).sum(1).clamp(min=2).log()
            return (-F.log_softmax(scores, dim=1)[:, 0] / guessing).mean()

    def _own(self, rows: Tensor) -> Tensor:
        """Draw rows of each target's own article, (n, m): half from its context, half from the whole of it."""
        draws = torch.rand(len(rows), self.num_own, device=rows.device)
        lengths, firsts = self.lengths[rows], self.first_rows[rows]
        half = self.num_own // 2
        earlier = (draws[:, :half] * (rows - firsts)[:, None]).long()
        return firsts[:, None] + torch.cat([earlier, (draws[:, half:] * lengths[:, None]).long()], dim=1)

    def _scores(self, found: Tensor, targets: Tensor, negatives: Tensor, is_given: Tensor) -> Tensor:
        """Return cosines of predictions and their negatives (n, m, D); minus infinity where there is none."""
        negatives = F.normalize(negatives, dim=-1)
        is_given = is_given & (torch.einsum("nd,nmd->nm", targets, negatives) < SAME_CONCEPT)
        return torch.einsum("nd,nmd->nm", found, negatives).masked_fill(~is_given, -torch.inf)

    def _from_bank(self, found: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Return cosines to the hardest of the drawn concepts of other articles, (n, num_hard)."""
        drawn = self.bank_rows[torch.randint(len(self.bank_rows), (DRAWN_FROM_BANK,), device=rows.device)].unique()
        bank = F.normalize(self.vectors[drawn].float(), dim=-1)
        hardness = (targets @ bank.T).masked_fill(self.articles[rows][:, None] == self.articles[drawn], -torch.inf)
        hardness = hardness.masked_fill(hardness >= SAME_CONCEPT, -torch.inf)
        hardest, chosen = hardness.topk(min(self.num_hard, len(drawn)), dim=1)
        return (found @ bank.T).gather(1, chosen).masked_fill(hardest.isinf(), -torch.inf)

    def _from_table(self, found: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Return cosines to drawn negatives that the table names for the target, (n, m)."""
        assert self.written is not None
        assert self.starts is not None
        starts, counts = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        draws = torch.rand(len(rows), self.num_own, device=rows.device)
        chosen = starts[:, None] + (draws * counts[:, None]).long()
        is_given = (counts > 0)[:, None].expand_as(chosen)
        return self._scores(found, targets, self.written[chosen.clamp(max=len(self.written) - 1)], is_given)
