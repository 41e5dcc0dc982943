"""Correct a prediction by the residuals of similar predictions on the train articles.

Shapes: D = vector width, N = train targets that are kept, K = directions compared, R = directions corrected.

    a = softmax_n(SHARPNESS * q.k_n)               q, k_n: this prediction and a train prediction in K directions, unit
    r_n = V^T (y_n - scale * p_n)                  what the prediction p_n missed of its target y_n, (R,)
    corrected = normalise(scale * p + V sum_n a_n r_n)

This is a kernel regression of residuals (Nadaraya 1964, Watson 1964) on predictions. A prediction of unit length is
too long to be a mean of its targets, so it is shortened by `scale`, the mean cosine of the train predictions with their
targets; without it, every residual would point away from the mean vector. Directions are the leading ones of the train
targets. Sharpness and widths were chosen on the validation articles of one Wikipedia table.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_KEPT = 50_000  # train targets; of more, an even sample
NUM_COMPARED, NUM_CORRECTED = 64, 256  # K and R
SHARPNESS = 12.0
ROWS_AT_ONCE = 512


class NeighbourCorrection(nn.Module):
    """Correct predictions of unit length by residuals of similar train predictions; does nothing until it is fitted."""

    keys: Tensor
    residuals: Tensor
    directions: Tensor
    scale: Tensor

    def __init__(self, vector_dim: int):
        super().__init__()
        self.num_compared = min(NUM_COMPARED, vector_dim)
        num_corrected = min(NUM_CORRECTED, vector_dim)
        self.register_buffer("keys", torch.zeros(0, self.num_compared))
        self.register_buffer("residuals", torch.zeros(0, num_corrected))
        self.register_buffer("directions", torch.zeros(vector_dim, max(self.num_compared, num_corrected)))
        self.register_buffer("scale", torch.ones(()))
        self.register_load_state_dict_pre_hook(_as_many_as_were_kept)

    @torch.no_grad()
    def fit(self, predictions: Tensor, targets: Tensor) -> None:
        """Keep predictions and targets of the train split, both (S, D), of which lengths are ignored."""
        num_kept = min(len(predictions), MOST_KEPT)
        chosen = torch.arange(num_kept) * len(predictions) // max(1, num_kept)
        found, wanted = F.normalize(predictions[chosen], dim=-1), F.normalize(targets[chosen], dim=-1)
        _, ordered = torch.linalg.eigh((wanted.T @ wanted).double())
        self.directions = ordered.flip(1)[:, : self.directions.shape[1]].to(wanted.dtype).contiguous()
        self.scale = (found * wanted).sum(dim=-1).mean()
        self.keys = self._compared(found)
        self.residuals = (wanted - self.scale * found) @ self._corrected

    def forward(self, predictions: Tensor) -> Tensor:
        """Return predictions (..., D) corrected, of unit length."""
        if not len(self.keys):
            return predictions
        rows = predictions.reshape(-1, predictions.shape[-1])
        return torch.cat([self._of_rows(some) for some in rows.split(ROWS_AT_ONCE)]).view_as(predictions)

    def _of_rows(self, predictions: Tensor) -> Tensor:
        near = torch.softmax(SHARPNESS * (self._compared(predictions) @ self.keys.T), dim=-1)
        return F.normalize(self.scale * predictions + near @ self.residuals @ self._corrected.T, dim=-1)

    def _compared(self, predictions: Tensor) -> Tensor:
        return F.normalize(predictions @ self.directions[:, : self.num_compared], dim=-1)

    @property
    def _corrected(self) -> Tensor:
        return self.directions[:, : self.residuals.shape[1]]


def _as_many_as_were_kept(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Make room for the train targets of weights that are about to be loaded."""
    assert isinstance(module, NeighbourCorrection)
    for name in ("keys", "residuals"):
        if (kept := state_dict.get(f"{prefix}{name}")) is not None:
            own = getattr(module, name)
            setattr(module, name, own.new_zeros(len(kept), own.shape[1]))
