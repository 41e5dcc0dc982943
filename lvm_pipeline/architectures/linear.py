"""The linear forecast as a model: solved in closed form on train articles, without an epoch of training.

Equations and fit: `lvm_pipeline/measures/linear_forecast.py`. Decayed sums are carried from concept to concept, so a
step costs the same at any length.

Shapes: B = batch, T = context in concepts, D = vector width, K = decays, P = inputs of the low-rank part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lvm_pipeline.architectures._config import option
from lvm_pipeline.architectures._contract import Architecture, LatentVectorModel, ModelConfig, Preset
from lvm_pipeline.architectures._precision import without_autocast
from lvm_pipeline.architectures._units import unit
from lvm_pipeline.errors import LvmError

POSITIONS_IN_A_BLOCK = 64

LinearState = tuple[Tensor, Tensor, Tensor]  # decayed sums (B, K, D), their weights (B, K), first concept (B, D)


@dataclass(frozen=True, kw_only=True)
class LinearConfig(ModelConfig):
    scales: tuple[float, ...] = option((0.0, 0.3, 0.5, 0.7, 0.85, 0.93, 1.0), "Decays of the means of the context.")
    leading_directions: int = option(256, "Principal directions that the low-rank part reads.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(len(self.scales) > 0, "scales", "at least one decay")
        self.require_decays("scales")
        self.require(self.leading_directions >= 1, "leading_directions", "at least 1")

    @property
    def inputs(self) -> tuple[int, int, int]:
        """Which of the means the low-rank part reads: the first, the middle and the last."""
        return 0, len(self.scales) // 2, len(self.scales) - 1

    @property
    def num_leading(self) -> int:
        return min(self.leading_directions, self.vector_dim)


class Linear(LatentVectorModel):
    """The fitted arrays as parameters that no gradient changes."""

    is_recurrent = True

    decays: Tensor

    def __init__(self, config: LinearConfig):
        """Predict the last concept until a fitted forecast is set."""
        super().__init__(config)
        self.scales, self.inputs, self.num_leading = config.scales, config.inputs, config.num_leading
        dim, num_decays = config.vector_dim, len(config.scales)
        self.register_buffer("decays", torch.tensor(config.scales), persistent=False)
        weights = torch.zeros(num_decays + 1, dim)
        weights[0] = 1
        self.basis = nn.Parameter(torch.eye(dim), requires_grad=False)
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.low_rank = nn.Parameter(torch.zeros(self.num_leading * len(self.inputs), dim), requires_grad=False)
        self.constant = nn.Parameter(torch.zeros(dim), requires_grad=False)

    @property
    def linear_forecast_options(self) -> Mapping[str, Any]:
        return {"decays": self.scales, "inputs": self.inputs, "leading_directions": self.num_leading}

    @torch.no_grad()
    def set_linear_forecast(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, parameter in self.named_parameters():
            if arrays[name].shape != tuple(parameter.shape):
                raise LvmError(
                    f"The linear forecast cannot be used: {name} has shape {arrays[name].shape}, not "
                    f"{tuple(parameter.shape)}; fit it with this model's options."
                )
            parameter.copy_(torch.from_numpy(arrays[name]))

    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        with without_autocast(contexts):
            summaries, _ = self._summaries(self._rotated(contexts), None)
            return self._forecast(summaries if at is None else summaries[at])

    def prefill(
        self, contexts: Tensor, state: LinearState | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, LinearState]:
        with without_autocast(contexts):
            summaries, state = self._summaries(self._rotated(contexts), state)
            return self._forecast(summaries), state

    def _rotated(self, contexts: Tensor) -> Tensor:
        return contexts.to(self.basis.dtype) @ self.basis

    def _summaries(self, rotated: Tensor, state: LinearState | None) -> tuple[Tensor, LinearState]:
        """Return the decayed means and the first concept at every position, (B, T, K + 1, D), and the state after."""
        sums, totals, first = self._empty_state(rotated) if state is None else state
        blocks = []
        for block_BTD in rotated.split(POSITIONS_IN_A_BLOCK, dim=1):
            length = block_BTD.shape[1]
            lags = torch.arange(length + 1, device=rotated.device)
            powers_KT = self.decays.to(rotated.dtype)[:, None] ** lags
            distances = lags[:-1, None] - lags[:-1]
            shares_KTT = powers_KT[:, distances.clamp(min=0)] * (distances >= 0)
            sums_BTKD = torch.einsum("kts,bsd->btkd", shares_KTT, block_BTD)
            sums_BTKD = sums_BTKD + powers_KT.T[1:, :, None] * sums[:, None]
            totals_BTK = (powers_KT[:, :-1].cumsum(1) + powers_KT[:, 1:] * totals[..., None]).transpose(1, 2)
            firsts = first[:, None, None].expand(-1, length, -1, -1)
            blocks.append(torch.cat([sums_BTKD / totals_BTK[..., None], firsts], dim=2))
            sums, totals = sums_BTKD[:, -1], totals_BTK[:, -1]
        return torch.cat(blocks, dim=1), (sums, totals, first)

    def _empty_state(self, rotated: Tensor) -> LinearState:
        batch, _, dim = rotated.shape
        sums = rotated.new_zeros(batch, len(self.decays), dim)
        return sums, rotated.new_zeros(batch, len(self.decays)), rotated[:, 0]

    def _forecast(self, summaries: Tensor) -> Tensor:
        """Combine summaries (..., K + 1, D)."""
        leading = torch.cat([summaries[..., index, : self.num_leading] for index in self.inputs], dim=-1)
        forecast = (summaries * self.weights).sum(dim=-2) + leading @ self.low_rank + self.constant
        return self.finish(forecast @ self.basis.T)

    def finish(self, predictions: Tensor) -> Tensor:
        return unit(predictions) if self.config.unit_length else predictions


def reference(model: Linear, contexts: Tensor) -> Tensor:
    """Predict by the formulas, one position after the other."""
    predictions = []
    for end in range(1, contexts.shape[1] + 1):
        read = contexts[:, :end] @ model.basis
        lags = torch.arange(end - 1, -1, -1, dtype=read.dtype)
        shares = [decay**lags / (decay**lags).sum() for decay in model.decays]
        summaries = [*(torch.einsum("t,btd->bd", share, read) for share in shares), read[:, 0]]
        forecast = sum(weight * summary for weight, summary in zip(model.weights, summaries, strict=True))
        leading = torch.cat([summaries[index][:, : model.num_leading] for index in model.inputs], dim=1)
        predictions.append((forecast + leading @ model.low_rank + model.constant) @ model.basis.T)
    return model.finish(torch.stack(predictions, dim=1))


ARCHITECTURE = Architecture(
    name="linear",
    summary="The linear forecast: decayed means weighted per principal direction, solved in closed form",
    sources=("lvm_pipeline/measures/linear_forecast.py",),
    config_class=LinearConfig,
    presets={name: Preset(config=LinearConfig(), num_params=1_186_560) for name in ("smoke", "small", "full")},
    build_model=Linear,
    reference=reference,
    is_baseline=True,
    is_closed_form=True,
)
