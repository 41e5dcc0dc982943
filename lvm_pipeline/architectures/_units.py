"""Vectors scaled to length one, and cosines, whose gradients take few operations.

PyTorch's `F.normalize` and `F.cosine_similarity` find their gradients through nine operations each, over all elements.
Values and gradients are the same.

Shapes: n = vectors, D = vector width.
"""

from typing import Any

import torch
from torch import Tensor

SMALLEST_LENGTH = 1e-12  # as in F.normalize; a shorter vector is divided by this
SMALLEST_LENGTH_OF_COSINE = 1e-8  # as in F.cosine_similarity


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) scaled to length one; a vector of zeros stays one."""
    return _Unit.apply(vectors)  # pyright: ignore[reportReturnType]


def cosines(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the cosine of each prediction (n, D) with its target (n, D), (n,); targets get no gradient."""
    return _Cosines.apply(predictions, targets)  # pyright: ignore[reportReturnType]


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_(min=SMALLEST_LENGTH)
        units = vectors / lengths
        ctx.save_for_backward(units, lengths)
        return units

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Take away what lies along the vector, since its length has no effect."""
        units, lengths = ctx.saved_tensors
        along = torch.linalg.vecdot(gradients[0], units).unsqueeze(-1)
        return torch.addcmul(gradients[0], units, along, value=-1) / lengths


class _Cosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, predictions: Tensor, targets: Tensor) -> Tensor:
        length, other_length = (
            torch.linalg.vector_norm(each, dim=-1).clamp_(min=SMALLEST_LENGTH_OF_COSINE)
            for each in (predictions, targets)
        )
        found = torch.linalg.vecdot(predictions, targets) / (length * other_length)
        ctx.save_for_backward(predictions, targets, found, length, other_length)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        predictions, targets, found, length, other_length = ctx.saved_tensors
        of_target = gradients[0] / (length * other_length)
        of_prediction = gradients[0] * found / length.square()
        return torch.addcmul(targets * of_target[:, None], predictions, of_prediction[:, None], value=-1), None
