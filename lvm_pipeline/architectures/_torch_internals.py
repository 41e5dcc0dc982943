"""Private names of torch that this project uses. No other module uses a name of torch with an underscore."""

import torch
from torch import Tensor


def reorder_linear_weight(weight: Tensor, rows: int) -> Tensor:
    """Return the weight in oneDNN's layout, which has no public function."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def linear_pointwise(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear map whose weight is in oneDNN's layout; `F.linear` does not accept that layout."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def has_mkldnn_bfloat16() -> bool:
    """Whether oneDNN supports bfloat16 on this CPU; `torch.backends.mkldnn` does not say."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_avx512_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively; the public functions also count emulation."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 in tiles (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def compiler_error() -> type[Exception]:
    """Return the base class of `torch.compile`'s errors, which is not public. Its import takes seconds."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException
