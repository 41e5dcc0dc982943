"""LSTM and GRU layers for training on a CPU: matrix products in bfloat16, weight gradients once for all steps.

torch's own LSTM is fast in float32 but its bfloat16 backward pass is slower than the float32 one, and its GRU has no
fast path on a CPU at all. Here only the product with the last hidden state is done step by step; everything else is
one product over all steps, and what is not a product is in float32. The formulas are those of `lstm` and `gru`;
tests compare outputs and gradients with torch's layers.

Shapes: T = context in concepts, B = batch, I = width of the input, H = hidden width.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = Callable[..., Tensor]


def pays(states: Tensor) -> bool:
    """Whether to use these layers: in training under autocast on a CPU."""
    return states.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


def run_layers(layers: nn.RNNBase, states: Tensor, layer: Layer, *, dtype: torch.dtype) -> Tensor:
    """Run all layers of a torch module by one of the functions below.

    Args:
        layers: Holds the weights, and says how much is dropped out between layers.
        states: (B, T, I).
        layer: `lstm_layer` or `gru_layer`.
        dtype: Type of the products.

    Returns:
        The last layer's outputs, (B, T, H).
    """
    states = states.transpose(0, 1).to(dtype).contiguous()
    for number in range(layers.num_layers):
        if number:
            states = F.dropout(states, layers.dropout, layers.training)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        states = layer(states, *(getattr(layers, f"{name}_l{number}").to(dtype) for name in names))
    return states.transpose(0, 1)


def lstm_layer(inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Run one LSTM layer from a state of zeros, (T, B, I) -> (T, B, H); weights in torch's order i, f, g, o."""
    return _LstmLayer.apply(inputs, weight_ih, weight_hh, bias_ih + bias_hh)  # pyright: ignore[reportReturnType]


def gru_layer(inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Run one GRU layer from a state of zeros, (T, B, I) -> (T, B, H); weights in torch's order r, z, n."""
    return _GruLayer.apply(inputs, weight_ih, weight_hh, bias_ih, bias_hh)  # pyright: ignore[reportReturnType]


class _LstmLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
        steps, batch, width = inputs.shape
        hidden_dim = weight_hh.shape[1]
        gates = torch.addmm(bias, inputs.reshape(-1, width), weight_ih.T).view(steps, batch, -1).to(_wide(inputs.dtype))
        hidden = inputs.new_zeros(steps + 1, batch, hidden_dim)
        cells = gates.new_zeros(steps + 1, batch, hidden_dim)
        tanh_cells = torch.empty_like(cells[1:])
        for t in range(steps):
            now = gates[t].add_(hidden[t] @ weight_hh.T)
            i, f, g, o = now.chunk(4, dim=1)
            now[:, : 2 * hidden_dim].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            hidden[t + 1] = torch.tanh(cells[t + 1], out=tanh_cells[t]) * o
        ctx.save_for_backward(inputs, weight_ih, weight_hh, gates, hidden, cells, tanh_cells)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Find what each gate's gradient is a multiple of for all steps at once, then go back step by step."""
        inputs, weight_ih, weight_hh, gates, hidden, cells, tanh_cells = ctx.saved_tensors
        steps, batch, hidden_dim = hidden[1:].shape
        i, f, g, o = gates.chunk(4, dim=2)
        of_cell = torch.stack([g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g.square())], dim=2)
        of_output = tanh_cells * o * (1 - o)
        to_cell = o * (1 - tanh_cells.square())
        grad_gates = torch.empty_like(gates, dtype=inputs.dtype)
        grad_hidden = gradients[0].to(cells.dtype, memory_format=torch.contiguous_format)
        grad_cell = cells.new_zeros(batch, hidden_dim)
        now = cells.new_empty(batch, 4, hidden_dim)
        from_next = cells.new_zeros(batch, hidden_dim)
        for t in reversed(range(steps)):
            to_hidden = grad_hidden[t] + from_next
            grad_cell.addcmul_(to_hidden, to_cell[t])
            torch.mul(grad_cell[:, None], of_cell[t], out=now[:, :3])
            torch.mul(to_hidden, of_output[t], out=now[:, 3])
            grad_gates[t] = now.view(batch, -1)
            grad_cell.mul_(f[t])
            from_next = grad_gates[t] @ weight_hh
        flat = grad_gates.view(steps * batch, -1)
        grad_inputs = (flat @ weight_ih).view(inputs.shape) if ctx.needs_input_grad[0] else None
        return grad_inputs, _against(flat, inputs), _against(flat, hidden[:-1]), _summed(flat)


class _GruLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
    ) -> Tensor:
        steps, batch, width = inputs.shape
        hidden_dim, wide = weight_hh.shape[1], _wide(inputs.dtype)
        gates = torch.addmm(bias_ih, inputs.reshape(-1, width), weight_ih.T).view(steps, batch, -1).to(wide)
        recurrent = torch.empty_like(gates[..., :hidden_dim])  # of n, before r gates it
        hidden = inputs.new_zeros(steps + 1, batch, hidden_dim)
        last = gates.new_zeros(batch, hidden_dim)
        for t in range(steps):
            from_last = torch.addmm(bias_hh, hidden[t], weight_hh.T)
            gates[t, :, : 2 * hidden_dim].add_(from_last[:, : 2 * hidden_dim]).sigmoid_()
            recurrent[t] = from_last[:, 2 * hidden_dim :]
            r, z, n = gates[t].chunk(3, dim=1)
            n.addcmul_(r, recurrent[t]).tanh_()
            last = torch.lerp(n, last, z)
            hidden[t + 1] = last
        ctx.save_for_backward(inputs, weight_ih, weight_hh, gates, recurrent, hidden)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Every gate's gradient is a multiple of the hidden state's: find that step by step, the rest at once."""
        inputs, weight_ih, weight_hh, gates, recurrent, hidden = ctx.saved_tensors
        steps, batch, hidden_dim = recurrent.shape
        r, z, n = gates.chunk(3, dim=2)
        of_n = (1 - z) * (1 - n.square())
        of_r = of_n * recurrent * r * (1 - r)
        of_z = (hidden[:-1] - n) * z * (1 - z)
        of_recurrent = torch.stack([of_r, of_z, of_n * r], dim=2)
        grad_recurrent = torch.empty_like(gates, dtype=inputs.dtype)
        grad_hidden = gradients[0].to(gates.dtype, copy=True, memory_format=torch.contiguous_format)
        from_next = gates.new_zeros(batch, hidden_dim)
        for t in reversed(range(steps)):
            now = grad_hidden[t].add_(from_next)
            grad_recurrent[t] = (now[:, None] * of_recurrent[t]).view(batch, -1)
            from_next = torch.addcmul((grad_recurrent[t] @ weight_hh).to(gates.dtype), now, z[t])
        flat_recurrent = grad_recurrent.view(steps * batch, -1)
        flat = flat_recurrent.clone()
        flat[:, 2 * hidden_dim :] = (grad_hidden * of_n).view(steps * batch, -1)
        grad_inputs = (flat @ weight_ih).view(inputs.shape) if ctx.needs_input_grad[0] else None
        grad_weights = _against(flat, inputs), _against(flat_recurrent, hidden[:-1])
        return grad_inputs, *grad_weights, _summed(flat), _summed(flat_recurrent)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of what is summed over steps: float64 for float64 products, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _against(flat_gradients: Tensor, read: Tensor) -> Tensor:
    """Return the gradient of a weight that read `read` (T, B, I) at every step, (G, I)."""
    return flat_gradients.T @ read.reshape(len(flat_gradients), -1)


def _summed(flat_gradients: Tensor) -> Tensor:
    return flat_gradients.sum(0, dtype=_wide(flat_gradients.dtype)).to(flat_gradients.dtype)
