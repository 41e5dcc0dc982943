"""A robust normaliser of concept vectors, fitted on train rows and saved with the weights.

Paper: LCM team, Large Concept Models, 2024 (arXiv 2412.08821), after Duquenne et al. (arXiv 2307.05445).

Shapes: N = train rows, D = vector width.

    z = (x - center) / scale        center = median of each dimension, scale = 0.7413 (Q75 - Q25)

0.7413 makes the scale of a normal distribution its standard deviation; long tails do not move it. The
authors' code asks for the quartiles as 0.25 and 0.75 where percents are expected and so measures the span
between the 0.25th and the 0.75th percentile; here they are the quartiles.
"""

from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._precision import at_least_float32

QUARTILES = (0.25, 0.75)
DEVIATIONS_A_SPAN = 1 / (2 * NormalDist().inv_cdf(0.75))  # 0.7413


class RobustNormaliser(nn.Module):
    """Centre and scale each dimension; until it is fitted, vectors stay as they are."""

    center: Tensor
    scale: Tensor

    def __init__(self, vector_dim: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(vector_dim))
        self.register_buffer("scale", torch.ones(vector_dim))

    @torch.no_grad()
    def fit(self, train_vectors: Tensor) -> None:
        """Set centre and scale from vectors (N, D); a dimension without spread keeps the scale of one."""
        rows = train_vectors.float().cpu().numpy()
        low, median, high = np.quantile(rows, (QUARTILES[0], 0.5, QUARTILES[1]), axis=0)
        span = high - low
        self.center.copy_(torch.from_numpy(median))
        self.scale.copy_(torch.from_numpy(np.where(span > 0, DEVIATIONS_A_SPAN * span, 1.0)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalise vectors (..., D), in float32 or wider."""
        return (at_least_float32(vectors) - self.center) / self.scale

    def undo(self, normalised: Tensor) -> Tensor:
        """Return the vectors (..., D) that normalise to these, in float32 or wider."""
        return at_least_float32(normalised) * self.scale + self.center
