"""Rows of zeros, so that bfloat16 products of a training have few shapes.

oneDNN generates machine code for every new shape of a product. On a CPU with AMX that takes 3 to 14 ms, and the product
itself one or two; batches of whole articles rarely have the same number of positions twice. With numbers of rows that
are multiples of 128, an epoch of the LSTM `small` over 100,000 concepts takes 15 s and not 26. On other CPUs code is
generated in a fraction of a millisecond, and nothing is padded.

Rows of zeros change no result and no gradient but by the order in which floats are added.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures import _torch_internals
from lvm_pipeline.architectures._precision import product_dtype

ROW_STEP = 128


def pad_rows(rows: Tensor) -> Tensor:
    """Return rows (n, I), followed by rows of zeros up to a multiple of `ROW_STEP` where that saves time."""
    extra = -len(rows) % ROW_STEP
    is_padded = extra and len(rows) > ROW_STEP and rows.dtype == torch.bfloat16 and rows.device.type == "cpu"
    return F.pad(rows, (0, 0, 0, extra)) if is_padded and _torch_internals.has_amx() else rows


def padded_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.linear` of inputs (..., I), their rows padded where autocast multiplies in bfloat16."""
    is_padded = inputs.dim() > 1 and inputs.device.type == "cpu" and not torch.compiler.is_compiling()
    if not is_padded or product_dtype(inputs) != torch.bfloat16:
        return F.linear(inputs, weight, bias)
    rows = inputs.flatten(0, -2)
    outputs = F.linear(pad_rows(rows.to(torch.bfloat16)), weight, bias)
    return outputs[: len(rows)].unflatten(0, inputs.shape[:-1])


class PaddedLinears:
    """Compute the linear maps of a model by `padded_linear`, as a context; without AMX, change nothing.

    The functions are made once, so that torch.compile does not take those of the next step for new ones.
    """

    def __init__(self, model: nn.Module):
        linears = (module for module in model.modules() if type(module) is nn.Linear)
        self.forwards = {each: _padded_forward(each) for each in linears} if _torch_internals.has_amx() else {}

    def __enter__(self) -> None:
        for linear, forward in self.forwards.items():
            linear.forward = forward  # pyright: ignore[reportAttributeAccessIssue]

    def __exit__(self, *_: object) -> None:
        for linear in self.forwards:
            del linear.forward


def _padded_forward(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    return lambda inputs: padded_linear(inputs, linear.weight, linear.bias)
