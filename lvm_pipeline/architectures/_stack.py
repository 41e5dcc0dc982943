"""Pre-norm residual layers one after the other, and the state they carry from concept to concept.

Shapes: (B, T, H) -> (B, T, H). The residual stream stays in float32 under autocast.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone, RecurrentMixers
from lvm_pipeline.architectures._config import BackboneConfig
from lvm_pipeline.architectures._dropout import Dropout
from lvm_pipeline.architectures._mlp import Mlp, SwiGlu
from lvm_pipeline.architectures._precision import at_least_float32

WORKS_ON_EACH_POSITION = (Mlp, SwiGlu)


class Residual(nn.Module):
    """Residual connection: states + dropout(inner(norm(states)))."""

    def __init__(self, norm: nn.Module, inner: nn.Module, *, dropout: float = 0.0):
        super().__init__()
        self.norm = norm
        self.inner = inner
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.dropout(self.inner(self.norm(states)))

    def prefill(self, states: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Continue after `state`; a module without `prefill` works on each position alone."""
        if not isinstance(self.inner, RecurrentMixers):
            return self(states), None
        mixed, state = self.inner.prefill(self.norm(states), state)
        return states + self.dropout(mixed), state


class ResidualStack(nn.Module):
    """Residual layers, then a last norm; `layers` are the inner modules of each, which a norm precedes.

    The layers after the last one that mixes along the context run only at the requested positions: in training on
    windows that is one position of each context.
    """

    def __init__(self, layers: Iterable[Sequence[nn.Module]], norm: Callable[[int], nn.Module], config: BackboneConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            Residual(norm(config.hidden_dim), inner, dropout=config.dropout) for layer in layers for inner in layer
        )
        self.norm = norm(config.hidden_dim)

    def forward(self, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Mix states (B, T, H); return them, or (n, H) at the positions where `at` (B, T) is True."""
        states = self.mix(states)
        states = states if at is None else states[at]
        for layer in self._parts()[1]:
            states = layer(states)
        return self.norm(states)

    def mix(self, states: Tensor) -> Tensor:
        """Run the layers up to the last that mixes along the context, (B, T, H) -> (B, T, H)."""
        states = self.prepare(states)
        for layer in self._parts()[0]:
            states = layer(states)
        return states

    def prepare(self, states: Tensor) -> Tensor:
        """Return the input of the first layer: the states in float32 or wider."""
        return at_least_float32(states)

    def _parts(self) -> tuple[list[nn.Module], list[nn.Module]]:
        layers = list(self.layers)
        num_mixing = len(layers)
        while num_mixing and isinstance(layers[num_mixing - 1].inner, WORKS_ON_EACH_POSITION):
            num_mixing -= 1
        return layers[:num_mixing], layers[num_mixing:]


class RecurrentStack(ResidualStack):
    """A stack whose mixers can all continue from a state."""

    def prefill(self, states: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Mix what follows on `state`, a list with one entry per layer, or None at the start."""
        return self.prefill_layers(self.prepare(states), state)

    def prefill_layers(self, states: Tensor, state: Any) -> tuple[Tensor, Any]:
        layer_states = [None] * len(self.layers) if state is None else state
        after = []
        for layer, layer_state in zip(self.layers, layer_states, strict=True):
            assert isinstance(layer, Residual)
            states, layer_state = layer.prefill(states, layer_state)
            after.append(layer_state)
        return self.norm(states), after


Reference = Callable[[Any, Tensor], Tensor]  # of a module and its input; the slow version of its forward


def reference_of(references: Mapping[type[nn.Module], Reference]) -> Reference:
    """Make the reference of an architecture from those of its layers' inner modules; others run as they are."""

    def reference(model: Backbone, contexts: Tensor) -> Tensor:
        return model.predict_from(contexts, reference_stack(model.mixers, model.states_of(contexts), references))

    return reference


def reference_stack(stack: nn.Module, states: Tensor, references: Mapping[type[nn.Module], Reference]) -> Tensor:
    """Run a stack on states (B, T, H) with the references of its inner modules."""
    assert isinstance(stack, ResidualStack)
    states = stack.prepare(states)
    for layer in stack.layers:
        assert isinstance(layer, Residual)
        forward = references.get(type(layer.inner), nn.Module.__call__)
        states = states + forward(layer.inner, layer.norm(states))
    return stack.norm(states)
