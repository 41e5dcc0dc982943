"""The order in which a model with a ranking head puts the candidates for the next concept.

Shapes: M = candidates, K = views, C = condition width, D = vector width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lvm_pipeline.architectures._ranking_head import NUM_VIEWS, RANKED, RankingOutput
from lvm_pipeline.inference.context import ReadingModel
from lvm_pipeline.inference.nearest import Ranking


@torch.inference_mode()
def ranking_of(
    reading: ReadingModel, vector: NDArray[np.float32], condition: NDArray[np.float32] | None = None
) -> Ranking:
    """Read the next concept (D,) with its condition (C,), and return how its successor is ranked."""
    assert isinstance(reading.model, RankingOutput)
    return ranking_from(reading.model, reading.read(vector, condition))


@torch.inference_mode()
def ranking_from(ranker: RankingOutput, output: NDArray[np.float32]) -> Ranking:
    """Return the order of concepts that the output of a ranker, flat views (K D,), stands for."""
    head, device = ranker.head, ranker.head.whitening.device
    views = torch.from_numpy(output).unflatten(-1, (NUM_VIEWS, -1)).to(device)

    @torch.inference_mode()
    def score(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        directions = F.normalize(torch.from_numpy(np.array(candidates, np.float32)).to(device), dim=-1)[None]
        return head.score(views[None], directions, head.whitened(directions))[0].cpu().numpy()

    return Ranking(query=head.query(views).cpu().numpy(), score=score, num_scored=RANKED)
