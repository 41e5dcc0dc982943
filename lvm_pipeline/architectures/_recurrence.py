"""LSTM and GRU layers for training on a CPU: no work on padding, two calls a position.

torch's own LSTM computes on padding too, its bfloat16 backward pass is slower than the float32 one, and its GRU has no
fast path on a CPU at all. Here the positions of a batch are packed (`_packing`), and only what depends on the last
hidden state is computed position by position: its product, with a matrix packed once (`_products`), and one compiled
loop over the gates (`_loops`). Every other product is one over all positions. What is not a product is in float32.
Tests compare outputs and gradients with torch's layers.

Shapes: B = batch, T = context in concepts, I = width of the input, H = hidden width, P = packed positions and rows of
zeros after them (`_row_padding`), n = contexts that go on at one position.
"""

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._arrays import as_array
from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig
from lvm_pipeline.architectures._dropout import dropout
from lvm_pipeline.architectures._packing import Packing, needed_lengths
from lvm_pipeline.architectures._products import repeated_product
from lvm_pipeline.architectures._row_padding import pad_rows

Layer = Callable[..., Tensor]
Cell = Callable[..., tuple[Tensor, Tensor]]  # concept, (h, c) and the weights named below -> (h, c)
TorchLayers = TypeVar("TorchLayers", nn.LSTM, nn.GRU)
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
FEW_POSITIONS = 12  # measured: torch's LSTM packs its matrices at every call, which takes longer than so few need


class RecurrentLayers(nn.Module):
    """Stacked layers of torch on (B, T, H); on a CPU the functions of this module run them where they are faster."""

    def __init__(self, layers: nn.RNNBase, layer: Layer):
        super().__init__()
        self.layers, self.layer = layers, layer

    def forward(self, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Mix states (B, T, H); return them, or (n, H) at the positions where `at` (B, T) is True."""
        if states.device.type == "cpu" and torch.is_grad_enabled():
            return run_layers(self.layers, states, self.layer, at=at)
        is_short = states.shape[0] * states.shape[1] <= FEW_POSITIONS and _can_step(self.layers, states)
        mixed = reference_layers(self.layers, states, torch.lstm_cell) if is_short else self.layers(states)[0]
        return mixed if at is None else mixed[at]

    def prefill(self, states: Tensor, state: Any) -> tuple[Tensor, Any]:
        if state is not None and states.shape[1] == 1 and _can_step(self.layers, states):
            return _lstm_step(self.layers, states, state)
        return self.layers(states, state)


def stacked(kind: type[TorchLayers], config: BackboneConfig) -> TorchLayers:
    """Build torch's layers of a config; with dropout between them, if there are several."""
    between = config.dropout if config.num_layers > 1 else 0.0
    return kind(config.hidden_dim, config.hidden_dim, config.num_layers, batch_first=True, dropout=between)


def _can_step(layers: nn.RNNBase, states: Tensor) -> bool:
    is_plain = not layers.training and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return isinstance(layers, nn.LSTM) and states.device.type == "cpu" and is_plain


def _lstm_step(layers: nn.RNNBase, states: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    """Read one concept, (B, 1, H), in a third of the time of torch's LSTM, which packs its matrices."""
    reached, x = [], states[:, 0]
    for number, last in enumerate(zip(*state, strict=True)):
        reached.append(torch.lstm_cell(x, last, *(getattr(layers, f"{name}_l{number}") for name in NAMES)))
        x = reached[-1][0]
    return x[:, None], tuple(torch.stack(each) for each in zip(*reached, strict=True))


def reference_layers(layers: nn.RNNBase, states: Tensor, cell: Cell) -> Tensor:
    """Run the layers one concept at a time, (B, T, H) -> (B, T, H), each by its cell from states of zeros."""
    for number in range(layers.num_layers):
        weights = [getattr(layers, f"{name}_l{number}") for name in NAMES]
        zeros = states.new_zeros(states.shape[0], layers.hidden_size)
        state, outputs = (zeros, zeros), []
        for x in states.unbind(1):
            state = cell(x, state, *weights)
            outputs.append(state[0])
        states = torch.stack(outputs, dim=1)
    return states


def reference_by(cell: Cell) -> Callable[[Backbone, Tensor], Tensor]:
    """Make the reference of an architecture of one stack of torch layers."""

    def reference(model: Backbone, contexts: Tensor) -> Tensor:
        assert isinstance(model.mixers, RecurrentLayers)
        return model.predict_from(contexts, reference_layers(model.mixers.layers, model.states_of(contexts), cell))

    return reference


def run_layers(
    layers: nn.RNNBase, states: Tensor, layer: Layer, *, at: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Run all layers of a torch module by `lstm_layer` or `gru_layer`, (B, T, I) -> (B, T, H).

    Only outputs where `at` (B, T) is True are returned, (n, H), if it is given; later positions of a context are
    skipped. `dtype` is that of the products; None: autocast's where that is on, else that of the states.
    """
    if dtype is None:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
    packing = Packing.of(states.shape[0], states.shape[1], None if at is None else needed_lengths(at))
    num_packed, packed = sum(packing.sizes), pad_rows(packing.pack(states.to(dtype)))
    for number in range(layers.num_layers):
        if number:
            packed = dropout(packed, layers.dropout, training=layers.training)
        packed = layer(packed, packing.sizes, *(getattr(layers, f"{name}_l{number}").to(dtype) for name in NAMES))
    packed = packed[:num_packed]
    return packing.unpack(packed) if at is None else packing.unpack_at(packed, at)


def lstm_layer(
    inputs: Tensor, sizes: list[int], weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """Run one LSTM layer from a state of zeros, (P, I) -> (P, H); weights in torch's order i, f, g, o.

    Rows after the packed positions, whose number is the sum of `sizes`, must be zero; so are their outputs.
    """
    return _LstmLayer.apply(inputs, sizes, weight_ih, weight_hh, bias_ih + bias_hh)  # pyright: ignore[reportReturnType]


def gru_layer(
    inputs: Tensor, sizes: list[int], weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """Run one GRU layer from a state of zeros, (P, I) -> (P, H), as `lstm_layer`; weights in torch's order r, z, n."""
    return _GruLayer.apply(inputs, sizes, weight_ih, weight_hh, bias_ih, bias_hh)  # pyright: ignore[reportReturnType]


class _LstmLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, sizes: list[int], weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
    ) -> Tensor:
        from lvm_pipeline.architectures._loops import lstm_position

        hidden_dim = weight_hh.shape[1]
        of_inputs = inputs @ weight_ih.T
        gates = of_inputs.new_empty(of_inputs.shape, dtype=_wide(inputs.dtype))
        cells, tanh_cells = gates.new_empty(2, len(gates), hidden_dim).unbind()
        hidden = inputs.new_empty(len(gates), hidden_dim)
        arrays = [as_array(each) for each in (bias.to(gates.dtype), gates, cells, tanh_cells, hidden)]
        array_of_inputs = of_last = as_array(of_inputs)
        product = repeated_product(weight_hh, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        for start, before, n in _positions(sizes):
            if before >= 0:
                of_last = as_array(product(hidden[before : before + n]))
            lstm_position(array_of_inputs, of_last, *arrays, start, before, n)
        hidden[sum(sizes) :] = 0
        ctx.save_for_backward(inputs, weight_ih, weight_hh, gates, hidden, cells, tanh_cells)
        ctx.sizes = sizes
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from lvm_pipeline.architectures._loops import lstm_position_backwards

        inputs, weight_ih, weight_hh, gates, hidden, cells, tanh_cells = ctx.saved_tensors
        sizes = ctx.sizes
        grad_gates, grad_bias = inputs.new_empty(gates.shape), gates.new_zeros(gates.shape[1])
        grad_cell, of_next = cells.new_zeros(sizes[0], cells.shape[1]), inputs.new_empty(0, cells.shape[1])
        given = [as_array(each) for each in (gates, cells, tanh_cells, gradients[0].contiguous())]
        found = [as_array(each) for each in (grad_cell, grad_gates, grad_bias)]
        product = repeated_product(weight_hh.T, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        for start, before, n in reversed(_positions(sizes)):
            lstm_position_backwards(*given, as_array(of_next), *found, start, before, n)
            if before >= 0:
                of_next = product(grad_gates[start : start + n])
        grad_gates[sum(sizes) :] = 0
        grad_inputs = grad_gates @ weight_ih if ctx.needs_input_grad[0] else None
        grad_weights = grad_gates.T @ inputs, _of_recurrent(grad_gates, hidden, sizes)
        return grad_inputs, None, *grad_weights, grad_bias.to(inputs.dtype)


class _GruLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        sizes: list[int],
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
    ) -> Tensor:
        from lvm_pipeline.architectures._loops import gru_position

        hidden_dim = weight_hh.shape[1]
        of_inputs = inputs @ weight_ih.T
        gates = of_inputs.new_empty(of_inputs.shape, dtype=_wide(inputs.dtype))
        recurrent, states = gates.new_empty(2, len(gates), hidden_dim).unbind()  # recurrent: of n, before r gates it
        hidden = inputs.new_empty(len(gates), hidden_dim)
        biases = bias_ih.to(gates.dtype), bias_hh.to(gates.dtype)
        arrays = [as_array(each) for each in (*biases, gates, recurrent, states, hidden)]
        array_of_inputs = of_last = as_array(of_inputs)
        product = repeated_product(weight_hh, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        for start, before, n in _positions(sizes):
            if before >= 0:
                of_last = as_array(product(hidden[before : before + n]))
            gru_position(array_of_inputs, of_last, *arrays, start, before, n)
        hidden[sum(sizes) :] = 0
        ctx.save_for_backward(inputs, weight_ih, weight_hh, gates, hidden, recurrent, states)
        ctx.sizes = sizes
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from lvm_pipeline.architectures._loops import gru_position_backwards

        inputs, weight_ih, weight_hh, gates, hidden, recurrent, states = ctx.saved_tensors
        sizes = ctx.sizes
        grad_inputs, grad_recurrent = inputs.new_empty(2, *gates.shape).unbind()
        grad_bias_ih, grad_bias_hh = gates.new_zeros(2, gates.shape[1]).unbind()
        grad_state, of_next = states.new_zeros(sizes[0], states.shape[1]), inputs.new_empty(0, states.shape[1])
        given = [as_array(each) for each in (gates, recurrent, states, gradients[0].contiguous())]
        found = [as_array(e) for e in (grad_state, grad_inputs, grad_recurrent, grad_bias_ih, grad_bias_hh)]
        product = repeated_product(weight_hh.T, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        for start, before, n in reversed(_positions(sizes)):
            gru_position_backwards(*given, as_array(of_next), *found, start, before, n)
            if before >= 0:
                of_next = product(grad_recurrent[start : start + n])
        of_r_and_z = slice(2 * states.shape[1])
        grad_bias_ih[of_r_and_z] = grad_bias_hh[of_r_and_z]
        grad_inputs[sum(sizes) :] = 0
        of_layer_below = grad_inputs @ weight_ih if ctx.needs_input_grad[0] else None
        grad_weights = grad_inputs.T @ inputs, _of_recurrent(grad_recurrent, hidden, sizes)
        return of_layer_below, None, *grad_weights, grad_bias_ih.to(inputs.dtype), grad_bias_hh.to(inputs.dtype)


def _positions(sizes: list[int]) -> list[tuple[int, int, int]]:
    """Return where each position starts in packed tensors, where the previous one does (-1: none), and its contexts."""
    starts = [0, *itertools.accumulate(sizes)][:-1]
    return list(zip(starts, [-1, *starts], sizes, strict=False))


def _of_recurrent(gradients: Tensor, hidden: Tensor, sizes: list[int]) -> Tensor:
    """Return the gradient of the recurrent weight from those of its products, (P, O), and the hidden states, (P, H)."""
    num_packed = sum(sizes)
    parts = hidden[:num_packed].split(sizes)
    before = torch.cat([part[:size] for part, size in zip(parts, [*sizes[1:], 0], strict=True)])
    return pad_rows(gradients[sizes[0] : num_packed]).T @ pad_rows(before)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums over positions: float64 for float64 products, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
