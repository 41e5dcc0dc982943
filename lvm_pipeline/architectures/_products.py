"""Many products of few rows with one matrix, whose packed layout is made once.

A product of few rows takes less time than packing its matrix into the layout that the processor reads. oneDNN can keep
a packed matrix; without it, or where packing is not faster, the products are torch's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures import _torch_internals

MAX_ROWS = 64  # measured: with more rows, a product costs as much as with the unpacked matrix
USUAL_ROWS = 5  # of a prediction: a context
MIN_TIMES = 8  # products after which packing has paid off


def repeated_product(
    weight: Tensor, bias: Tensor | None = None, *, rows: int, times: int
) -> Callable[[Tensor], Tensor]:
    """Return the linear map of a weight (O, I) and bias (O,), without gradient.

    The map is for about `times` products of `rows` rows; the weight must not change while it is in use.
    """
    if rows > MAX_ROWS or times < MIN_TIMES or not _can_pack(weight.dtype):
        return lambda inputs: F.linear(inputs, weight, bias)
    packed = _torch_internals.reorder_linear_weight(weight.contiguous(), rows)
    return lambda inputs: _torch_internals.linear_pointwise(inputs, packed, bias)


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """On a CPU, also keep the weights of a model's linear maps in a packed layout for predictions from few concepts.

    Takes their memory a second time. One map of 4224 x 1056 takes 1.1 ms and not 2.9 ms for five concepts. Larger
    inputs, and inputs that need gradients, use the unpacked weights.
    """
    linears = [module for module in model.modules() if type(module) is nn.Linear and _can_be_packed(module)]
    for linear in linears:
        linear.forward = _forward_with_packed_weight(linear)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for linear in linears:
            linear.__dict__.pop("forward", None)  # gone already where two streams shared the model


def _can_be_packed(linear: nn.Linear) -> bool:
    return linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32 and _can_pack(torch.float32)


def _forward_with_packed_weight(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    few = repeated_product(linear.weight.detach(), linear.bias, rows=USUAL_ROWS, times=MIN_TIMES)

    def forward(inputs: Tensor) -> Tensor:
        has_few_rows = inputs.numel() <= MAX_ROWS * inputs.shape[-1]
        if has_few_rows and inputs.dtype == torch.float32 and not torch.is_grad_enabled():
            return few(inputs)
        return F.linear(inputs, linear.weight, linear.bias)

    return forward


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _torch_internals.has_mkldnn_bfloat16())
