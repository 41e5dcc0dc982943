"""The frame around sequence mixers, shared by all architectures.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width, C = condition width.

Linear D->H, the architecture's mixers, Linear H->D (through `correction_rank` directions if given), then the head,
which reads the context too: prediction = output of the head + correction, of unit length where the space is. The last
projection starts at zero when there is a head, so that an untrained model is exactly the head's fitted weighted mean. A
normaliser, where an architecture has one, is around the mixers: they read normalised vectors, and their correction is
scaled back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._config import BackboneConfig
from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.architectures._dropout import Dropout
from lvm_pipeline.architectures._mixing_head import MixingHead
from lvm_pipeline.architectures._modulation import Modulation
from lvm_pipeline.architectures._normaliser import RobustNormaliser
from lvm_pipeline.architectures._residual_head import ResidualHead
from lvm_pipeline.architectures._units import unit
from lvm_pipeline.errors import LvmError


@runtime_checkable
class RecurrentMixers(Protocol):
    """Mixers that can also continue from a state."""

    def prefill(self, states: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Mix states (B, T, H) that continue from `state` (None at the start); also return the state after them."""
        ...


@runtime_checkable
class StepAwareMixers(Protocol):
    """Mixers that change something between optimiser steps."""

    def start_step(self, step: int) -> None: ...


class Backbone(LatentVectorModel):
    """Input projection, mixers, output projection, residual head."""

    def __init__(
        self,
        config: BackboneConfig,
        mixers: nn.Module,
        *,
        max_context: int | None = None,
        is_causal: bool = True,
        normaliser: RobustNormaliser | None = None,
    ):
        """Wrap mixers: `mixers(states (B, T, H), at)` returns (B, T, H), or (n, H) where `at` is True.

        `max_context` is the longest context, None for any; `normaliser` is applied to what the mixers read and undone
        on their correction.
        """
        super().__init__(config)
        self.normaliser = normaliser
        self.max_context = max_context
        self.is_causal = is_causal
        self.is_recurrent = isinstance(mixers, RecurrentMixers)
        self.input_projection = nn.Linear(config.vector_dim, config.hidden_dim)
        self.modulation = Modulation(config.condition_dim, config.hidden_dim) if config.condition_dim else None
        self.mixers = mixers
        self.dropout = Dropout(config.dropout)
        self.output_projection = _output_projection(config)
        self.residual_head = _head(config)
        self._is_head_alone = False
        self._start_without_effect()

    @torch.no_grad()
    def _start_without_effect(self) -> None:
        if self.residual_head is not None:
            last = self.output_projection[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.zero_()

    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        if self._is_head_alone and self.residual_head is not None:
            num_positions = contexts.shape[:2] if at is None else (int(at.sum()),)
            states = contexts.new_zeros(*num_positions, self.input_projection.out_features)
            return self._finish(self.residual_head(contexts, states, at))
        return self.predict_from(contexts, self.mixers(self.states_of(contexts, condition), at), at)

    def prefill(self, contexts: Tensor, state: Any = None, condition: Tensor | None = None) -> tuple[Tensor, Any]:
        if not self.is_recurrent:
            return super().prefill(contexts, state, condition)
        assert isinstance(self.mixers, RecurrentMixers)
        mixer_state, head_state = (None, None) if state is None else state
        states, mixer_state = self.mixers.prefill(self.states_of(contexts, condition), mixer_state)
        states = self.dropout(states)
        prediction = self._correction_from(states)
        if self.residual_head is not None:
            weighted, head_state = self.residual_head.prefill(contexts, states, head_state)
            prediction = weighted + prediction
        return self._finish(prediction), (mixer_state, head_state)

    def states_of(self, contexts: Tensor, condition: Tensor | None = None) -> Tensor:
        """Project and modulate the contexts to the input of the mixers, (B, T, H).

        Raises:
            LvmError: If the contexts are longer than the model reads, or it needs a condition and none is given.
        """
        if self.max_context is not None and contexts.shape[1] > self.max_context:
            raise LvmError(
                f"This model reads at most {self.max_context} concepts, got {contexts.shape[1]}; cut the context."
            )
        states = self.dropout(self.input_projection(contexts if self.normaliser is None else self.normaliser(contexts)))
        if self.modulation is None:
            return states
        wanted = (*contexts.shape[:2], self.config.condition_dim)
        if condition is None or condition.shape != wanted:
            found = "none" if condition is None else tuple(condition.shape)
            raise LvmError(
                f"This model reads a condition of width {self.config.condition_dim} for every concept: expected shape "
                f"{wanted}, got {found}; pass the concepts' TMD vectors."
            )
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return states * (1 + scale) + shift

    def predict_from(self, contexts: Tensor, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Turn the mixers' states at all positions, (B, T, H), or at some, (n, H), into predictions."""
        states = self.dropout(states)
        prediction = self._correction_from(states)
        if self.residual_head is not None:
            prediction = self.residual_head(contexts, states, at) + prediction
        return self._finish(prediction)

    def _correction_from(self, states: Tensor) -> Tensor:
        """Project states to the correction, which is the whole prediction where there is no head."""
        correction = self.output_projection(states)
        if self.normaliser is None:
            return correction
        return self.normaliser.undo(correction) if self.residual_head is None else self.normaliser.scale * correction

    def _finish(self, prediction: Tensor) -> Tensor:
        prediction = prediction if prediction.dtype == torch.float64 else prediction.float()
        return unit(prediction) if self.config.unit_length else prediction

    def start_step(self, step: int) -> None:
        if isinstance(self.mixers, StepAwareMixers):
            self.mixers.start_step(step)

    @contextmanager
    def without_idle_mixers(self) -> Iterator[None]:
        """Skip the mixers inside the block if they have no effect, as before training; predictions are the same.

        Weights must not change inside the block.
        """
        last, head = self.output_projection[-1], self.residual_head
        is_idle = head is not None and not head.reads_states and not any(bool(each.any()) for each in last.parameters())
        self._is_head_alone = is_idle
        try:
            yield
        finally:
            self._is_head_alone = False

    def fit(self, train_vectors: Tensor) -> None:
        if self.normaliser is not None:
            self.normaliser.fit(train_vectors)
        if isinstance(self.residual_head, MixingHead):
            self.residual_head.fit(train_vectors)

    def set_weighted_mean(self, *, decay: float, article_weight: float) -> None:
        if self.residual_head is not None:
            self.residual_head.set_weighted_mean(decay=decay, article_weight=article_weight)


def _head(config: BackboneConfig) -> MixingHead | ResidualHead | None:
    if config.head == "mixing":
        return MixingHead(config.vector_dim, config.hidden_dim, config.scales)
    return ResidualHead(config.hidden_dim, config.scales) if config.head == "means" else None


def _output_projection(config: BackboneConfig) -> nn.Sequential:
    if config.correction_rank is None:
        return nn.Sequential(nn.Linear(config.hidden_dim, config.vector_dim))
    narrow = nn.Linear(config.hidden_dim, config.correction_rank, bias=False)
    return nn.Sequential(narrow, nn.Linear(config.correction_rank, config.vector_dim))
