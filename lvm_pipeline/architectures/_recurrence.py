"""LSTM and GRU layers for training on a CPU: no work on padding, few operations a position.

torch's own LSTM computes on padding too, its bfloat16 backward pass is slower than the float32 one, and its GRU has no
fast path on a CPU at all. Here the positions of a batch are packed (`_packing`), only the product with the last hidden
state is done position by position, with a matrix laid out for it once (`_products`), and everything else is one
product or one operation over all positions. What is not a product is in float32. The formulas are those of `lstm` and
`gru`; tests compare outputs and gradients with torch's layers.

Shapes: B = batch, T = context in concepts, I = width of the input, H = hidden width, P = packed positions,
n = contexts that go on at one position.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._backbone import Backbone
from lvm_pipeline.architectures._config import BackboneConfig
from lvm_pipeline.architectures._dropout import dropout
from lvm_pipeline.architectures._packing import Packing, needed_lengths
from lvm_pipeline.architectures._products import repeated_product

Layer = Callable[..., Tensor]
Cell = Callable[..., tuple[Tensor, Tensor]]  # concept, (h, c) and the weights named below -> (h, c)
TorchLayers = TypeVar("TorchLayers", nn.LSTM, nn.GRU)
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
FEW_POSITIONS = 12  # measured: torch's LSTM lays out its matrices at every call, which takes longer than so few need


class RecurrentLayers(nn.Module):
    """Stacked layers of torch on (B, T, H); on a CPU the functions of this module run them where they are faster."""

    def __init__(self, layers: nn.RNNBase, layer: Layer):
        super().__init__()
        self.layers, self.layer = layers, layer

    def forward(self, states: Tensor, at: Tensor | None = None) -> Tensor:
        """Mix states (B, T, H); return them, or (n, H) at the positions where `at` (B, T) is True."""
        is_short = isinstance(self.layers, nn.LSTM) and states.shape[0] * states.shape[1] <= FEW_POSITIONS
        if states.device.type == "cpu" and (torch.is_grad_enabled() or is_short):
            return run_layers(self.layers, states, self.layer, at=at)
        mixed = self.layers(states)[0]
        return mixed if at is None else mixed[at]

    def prefill(self, states: Tensor, state: Any) -> tuple[Tensor, Any]:
        if _can_step(self.layers, states, state):
            return _lstm_step(self.layers, states, state)
        return self.layers(states, state)


def stacked(kind: type[TorchLayers], config: BackboneConfig) -> TorchLayers:
    """Build torch's layers of a config; with dropout between them, if there are several."""
    between = config.dropout if config.num_layers > 1 else 0.0
    return kind(config.hidden_dim, config.hidden_dim, config.num_layers, batch_first=True, dropout=between)


def _can_step(layers: nn.RNNBase, states: Tensor, state: Any) -> bool:
    is_plain = not layers.training and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    is_one_concept = state is not None and states.shape[1] == 1 and states.device.type == "cpu"
    return isinstance(layers, nn.LSTM) and is_one_concept and is_plain


def _lstm_step(layers: nn.RNNBase, states: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    """Read one concept, (B, 1, H), in a third of the time of torch's LSTM, which lays out its matrices."""
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
    packed = packing.pack(states.to(dtype))
    for number in range(layers.num_layers):
        if number:
            packed = dropout(packed, layers.dropout, training=layers.training)
        packed = layer(packed, packing.sizes, *(getattr(layers, f"{name}_l{number}").to(dtype) for name in NAMES))
    return packing.unpack(packed) if at is None else packing.unpack_at(packed, at)


def lstm_layer(
    inputs: Tensor, sizes: list[int], weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """Run one LSTM layer from a state of zeros, (P, I) -> (P, H); weights in torch's order i, f, g, o."""
    return _LstmLayer.apply(inputs, sizes, weight_ih, weight_hh, bias_ih + bias_hh)  # pyright: ignore[reportReturnType]


def gru_layer(
    inputs: Tensor, sizes: list[int], weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """Run one GRU layer from a state of zeros, (P, I) -> (P, H); weights in torch's order r, z, n."""
    return _GruLayer.apply(inputs, sizes, weight_ih, weight_hh, bias_ih, bias_hh)  # pyright: ignore[reportReturnType]


class _LstmLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, sizes: list[int], weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
    ) -> Tensor:
        """One sigmoid for all gates, since it costs half of a tanh: tanh(g) = 2 sigmoid(2 g) - 1."""
        hidden_dim = weight_hh.shape[1]
        of_g = slice(2 * hidden_dim, 3 * hidden_dim)
        gates = (inputs @ weight_ih.T).to(_wide(inputs.dtype))
        gates[:, of_g].mul_(2)
        weight, offset = weight_hh.clone(), bias.clone()
        weight[of_g].mul_(2)
        offset[of_g].mul_(2)
        of_last = repeated_product(weight, offset, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        hidden, cells = inputs.new_empty(len(gates), hidden_dim), gates.new_empty(len(gates), hidden_dim)
        tanh_cells = torch.empty_like(cells)
        last_h = last_c = None
        for now, h, c, tanh_c in _by_position(sizes, gates, hidden, cells, tanh_cells):
            now.add_(offset if last_h is None else of_last(last_h[: len(now)]))
            i, f, g, o = now.sigmoid_().chunk(4, dim=1)
            if last_c is None:
                torch.mul(i, g, out=c).mul_(2).sub_(i)
            else:
                torch.mul(f, last_c[: len(now)], out=c).addcmul_(i, g, value=2).sub_(i)
            torch.mul(torch.tanh(c, out=tanh_c), o, out=h)
            last_h, last_c = h, c
        ctx.save_for_backward(inputs, weight_ih, weight_hh, gates, hidden, cells, tanh_cells)
        ctx.sizes = sizes
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute each gate's local derivative for all positions at once, then backpropagate position by position."""
        inputs, weight_ih, weight_hh, gates, hidden, cells, tanh_cells = ctx.saved_tensors
        sizes, hidden_dim = ctx.sizes, weight_hh.shape[1]
        i, f, g, o = gates.chunk(4, dim=1)
        grad_gates = torch.addcmul(gates, gates, gates, value=-1)
        of_i, of_f, of_g, of_o = grad_gates.chunk(4, dim=1)
        of_i.mul_((2 * g).sub_(1))
        of_f[: sizes[0]].zero_()
        of_f[sizes[0] :].mul_(_before(cells, sizes))
        of_g.mul_(i).mul_(4)
        of_o.mul_(tanh_cells)
        to_cell = torch.addcmul(o, o, tanh_cells.square(), value=-1)
        grad_hidden = gradients[0].to(cells.dtype, copy=True, memory_format=torch.contiguous_format)
        grad_cell = cells.new_zeros(sizes[0], hidden_dim)
        of_next = repeated_product(weight_hh.T, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        grad_next = None
        for now, of_h, of_c, f_now in _by_position(sizes, grad_gates, grad_hidden, to_cell, f, backwards=True):
            if grad_next is not None:
                of_h[: len(grad_next)].add_(grad_next)
            grad_c = grad_cell[: len(now)].addcmul_(of_h, of_c)
            by_gate = now.view(len(now), 4, hidden_dim)
            by_gate[:, :3].mul_(grad_c[:, None])
            by_gate[:, 3].mul_(of_h)
            grad_c.mul_(f_now)
            grad_next = of_next(now.to(inputs.dtype))
        flat = grad_gates.to(inputs.dtype)
        grad_inputs = flat @ weight_ih if ctx.needs_input_grad[0] else None
        grad_weights = flat.T @ inputs, flat[sizes[0] :].T @ _before(hidden, sizes)
        return grad_inputs, None, *grad_weights, grad_gates.sum(0).to(inputs.dtype)


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
        hidden_dim = weight_hh.shape[1]
        gates = torch.addmm(bias_ih, inputs, weight_ih.T).to(_wide(inputs.dtype))
        of_last = repeated_product(weight_hh, bias_hh, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        recurrent = gates.new_empty(len(gates), hidden_dim)  # of n, before r gates it
        states = torch.empty_like(recurrent)
        hidden = states if inputs.dtype == states.dtype else inputs.new_empty(states.shape)
        last_h = last = None
        for now, of_n, state, h in _by_position(sizes, gates, recurrent, states, hidden):
            from_last = bias_hh.expand(len(now), -1) if last_h is None else of_last(last_h[: len(now)])
            now[:, : 2 * hidden_dim].add_(from_last[:, : 2 * hidden_dim]).sigmoid_()
            of_n.copy_(from_last[:, 2 * hidden_dim :])
            r, z, n = now.chunk(3, dim=1)
            n.addcmul_(r, of_n).tanh_()
            torch.lerp(n, torch.zeros_like(n) if last is None else last[: len(now)], z, out=state)
            if h is not state:
                h.copy_(state)
            last_h, last = h, state
        ctx.save_for_backward(inputs, weight_ih, weight_hh, gates, recurrent, hidden)
        ctx.sizes = sizes
        return hidden

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute each gate's local derivative for all positions at once, then backpropagate position by position."""
        inputs, weight_ih, weight_hh, gates, recurrent, hidden = ctx.saved_tensors
        sizes, hidden_dim = ctx.sizes, weight_hh.shape[1]
        r, z, n = gates.chunk(3, dim=1)
        before = _before(hidden, sizes)
        of_n = (1 - z).mul_(1 - n.square())
        grad_recurrent = torch.empty_like(gates)
        of_r, of_z, of_recurrent = grad_recurrent.chunk(3, dim=1)
        torch.mul(of_n, r, out=of_recurrent)
        torch.mul(of_recurrent, recurrent, out=of_r).mul_(1 - r)
        torch.addcmul(z, z, z, value=-1, out=of_z)
        of_z[: sizes[0]].mul_(-n[: sizes[0]])
        of_z[sizes[0] :].mul_(before - n[sizes[0] :])
        grad_hidden = gradients[0].to(gates.dtype, copy=True, memory_format=torch.contiguous_format)
        of_next = repeated_product(weight_hh.T, rows=len(gates) // len(sizes), times=len(sizes) - 1)
        grad_next = None
        for now, of_h, z_now in _by_position(sizes, grad_recurrent, grad_hidden, z, backwards=True):
            if grad_next is not None:
                of_h[: len(grad_next)].add_(grad_next)
            now.view(len(now), 3, hidden_dim).mul_(of_h[:, None])
            grad_next = torch.addcmul(of_next(now.to(inputs.dtype)), of_h, z_now)
        flat_recurrent = grad_recurrent.to(inputs.dtype)
        flat = flat_recurrent.clone()
        grad_n = grad_hidden * of_n
        flat[:, 2 * hidden_dim :] = grad_n
        grad_inputs = flat @ weight_ih if ctx.needs_input_grad[0] else None
        grad_weights = flat.T @ inputs, flat_recurrent[sizes[0] :].T @ before
        of_bias_hh = grad_recurrent.sum(0)
        of_bias_ih = torch.cat([of_bias_hh[: 2 * hidden_dim], grad_n.sum(0)])
        return grad_inputs, None, *grad_weights, of_bias_ih.to(inputs.dtype), of_bias_hh.to(inputs.dtype)


def _by_position(sizes: list[int], *packed: Tensor, backwards: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """Yield the parts (n, ...) of packed tensors that belong to one position, from the first or from the last on."""
    parts = list(zip(*(tensor.split(sizes) for tensor in packed), strict=True))
    return reversed(parts) if backwards else iter(parts)


def _before(packed: Tensor, sizes: list[int]) -> Tensor:
    """Return the values one position earlier, for every position but the first, (P - n of the first, ...)."""
    return torch.cat([part[:size] for part, size in zip(packed.split(sizes), [*sizes[1:], 0], strict=True)])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums over positions: float64 for float64 products, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
