"""Many products of few rows with one matrix, which is laid out for it once.

A product of few rows takes less time than bringing its matrix into the order in which the processor reads it. oneDNN
can keep a matrix in that order; without it, or where it does not pay, the products are torch's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ROWS = 64  # measured: from here on a product costs as much as with the matrix as it is
MIN_TIMES = 8  # laying out costs about as much as it saves in so many products


def repeated_product(
    weight: Tensor, bias: Tensor | None = None, *, rows: int, times: int
) -> Callable[[Tensor], Tensor]:
    """Prepare a linear map.

    Args:
        weight: (O, I); not changed while the result is in use.
        bias: (O,) or nothing.
        rows: Of a product, about.
        times: Number of products, about.

    Returns:
        A function of (n, I) that returns (n, O) and keeps no gradient.
    """
    if rows > MAX_ROWS or times < MIN_TIMES or not _can_lay_out(weight.dtype):
        return lambda inputs: F.linear(inputs, weight, bias)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    return lambda inputs: torch.ops.mkldnn._linear_pointwise(inputs, laid_out, bias, "none", [], "")


def _can_lay_out(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
