"""Ranks of the targets by a model's ranking head: the nearest candidates, ordered by its scores.

The query of the head finds the nearest candidates by cosine, the head orders the first of them, and those behind keep
their order. So a target that the query does not find among the first has the rank that the query gives it. As in
`measures.retrieval`, ties count against the target.

Shapes: R = targets that are ranked, P = candidates in the pool, B = targets in a block, M = candidates that the head
orders, K = views, D = vector width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvm_pipeline.architectures._ranking_head import NUM_VIEWS, RANKED, RankingHead, RankingOutput
from lvm_pipeline.measures.retrieval import EXCLUSIONS, TIE_TOLERANCE, Exclusion, first_excluded_rows
from lvm_pipeline.measures.targets import Contexts, Targets
from lvm_pipeline.training.data import Spans
from lvm_pipeline.training.predictions import predicted_batches

TARGETS_IN_A_BLOCK = 128

Ranks = dict[Exclusion, NDArray[np.int64]]


def ranks_by_head(
    ranker: RankingOutput, vectors: Tensor, spans: Spans, targets: Targets, *, condition: Tensor | None = None
) -> Ranks:
    """Rank every target of `targets.ranked` under each exclusion rule, from 1, (R,) each.

    `spans` are those of the scored split, `vectors` all vectors (N, D) on the model's device, `condition` that of all
    concepts (N, C).
    """
    pool = torch.from_numpy(targets.pool_directions).to(vectors.device)
    whitened = ranker.head.whitened(pool)
    ranks: Ranks = {rule: np.zeros(len(targets.ranked), np.int64) for rule in EXCLUSIONS}
    spans = spans.no_longer_than(ranker.max_context)
    for indices, found in predicted_batches(ranker, vectors, spans, condition):
        rows = spans.take(indices).target_rows()
        is_ranked = np.isin(rows, targets.ranked.target_rows)
        rows, found = rows[is_ranked], found[torch.from_numpy(is_ranked).to(found.device)]
        for start in range(0, len(rows), TARGETS_IN_A_BLOCK):
            chosen = np.searchsorted(targets.ranked.target_rows, rows[start : start + TARGETS_IN_A_BLOCK])
            views = found[start : start + TARGETS_IN_A_BLOCK].unflatten(-1, (NUM_VIEWS, -1))
            block = _ranks_of_block(ranker.head, views, targets.ranked.part(chosen), targets, pool, whitened)
            for rule in EXCLUSIONS:
                ranks[rule][chosen] = block[rule]
    return ranks


@torch.inference_mode()
def _ranks_of_block(
    head: RankingHead, views: Tensor, contexts: Contexts, targets: Targets, pool: Tensor, whitened: Tensor
) -> Ranks:
    cosines = head.query(views) @ pool.T
    own = torch.from_numpy(np.searchsorted(targets.pool_rows, contexts.target_rows)).to(pool.device)[:, None]
    threshold = cosines.gather(1, own) - TIE_TOLERANCE
    ranks: Ranks = {}
    for rule in EXCLUSIONS:
        left = cosines.masked_fill(_is_excluded(contexts, rule, targets, device=pool.device), -torch.inf)
        left.scatter_(1, own, -torch.inf)
        first = 1 + (left >= threshold).sum(dim=1)
        others = left.topk(min(RANKED, len(pool)) - 1, dim=1)
        candidates = torch.cat([own, others.indices], dim=1)
        scores = head.score(views, pool[candidates], whitened[candidates])
        is_ahead = (scores[:, 1:] >= scores[:, :1] - TIE_TOLERANCE) & others.values.isfinite()
        ranks[rule] = torch.where(first <= RANKED, 1 + is_ahead.sum(dim=1), first).cpu().numpy()
    return ranks


def _is_excluded(contexts: Contexts, rule: Exclusion, targets: Targets, *, device: torch.device) -> Tensor:
    """Return which candidates a rule leaves out of each target's pool, (B, P)."""
    rows = torch.from_numpy(targets.pool_rows).to(device)
    first = torch.from_numpy(first_excluded_rows(contexts, rule)).to(device)[:, None]
    return (rows >= first) & (rows < torch.from_numpy(contexts.target_rows).to(device)[:, None])
