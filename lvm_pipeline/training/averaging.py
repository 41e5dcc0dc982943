"""An exponential moving average of the weights during training (EMA).

    average <- d average + (1 - d) weights        after every step, d = min(decay, (1 + step) / (10 + step))

The smaller decay of the first steps keeps the average from remembering the start (Polyak and Juditsky, 1992, for the
average; the warm-up is that of TensorFlow's ExponentialMovingAverage). Buffers are not averaged.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Move towards the model's weights after a step, counted from 1."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        average(list(self.weights.values()), [each.detach() for each in model.parameters()], step)

    @contextlib.contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights inside the block."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            kept = parameter.clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from averaged weights of a checkpoint."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
