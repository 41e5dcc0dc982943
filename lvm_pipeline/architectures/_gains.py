"""Decayed means, and what the head adds up by gains, in loops that read each concept once; for training on a CPU.

In tensors, the J means are a product of (J * Q, S) with the concepts, whose cost grows with the square of the article;
each gain and each gradient of a gain is then an operation over (B, Q, D).

Shapes: B = batch, S = concepts read, Q = positions predicted at, D = vector width, K = heads, J = decayed means.
"""

from typing import Any

import torch
from torch import Tensor

from lvm_pipeline.architectures._arrays import as_array


def can_loop(concepts: Tensor) -> bool:
    """Whether this is a training on a CPU whose concepts (B, S, D) need no gradient; torch.compile sees no loops."""
    is_training = torch.is_grad_enabled() and not concepts.requires_grad
    return is_training and concepts.device.type == "cpu" and not torch.compiler.is_compiling()


def decayed_means(concepts: Tensor, decays: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
    """Return the mean of the concepts (B, S, D) up to some positions (Q,), once for each decay, each (B, Q, D)."""
    from lvm_pipeline.architectures._loops import fill_means

    means = concepts.new_empty(len(concepts), len(decays), len(positions), concepts.shape[-1])
    fill_means(*(as_array(each) for each in (concepts, decays, positions, means)))
    return means.unbind(1)


def sum_by_gains(
    concepts: Tensor,
    positions: Tensor,
    at: Tensor | None,
    attended: Tensor,
    correction: Tensor,
    *,
    decays: Tensor,
    gains: Tensor,
    mean_gains: Tensor,
    constant: Tensor,
) -> Tensor:
    """Return constant + correction + sum_k gain_k attended_k + sum_j mean gain_j mean_j, (B, Q, D), or (n, D) at `at`.

    Args:
        concepts: (B, S, D), without gradient.
        positions: Increasing positions (Q,) of the concepts, where `attended`, `correction` and `at` are given.
        at: Where the sum is wanted, (B, Q); None: everywhere.
        attended: What each head reads, (B, K, Q, D).
        correction: (B, Q, D).
        decays: Of the means, (J,).
        gains, mean_gains, constant: (K, D), (J, D) and (D,).
    """
    everywhere = torch.ones(correction.shape[:2], dtype=torch.bool)
    rows: Tensor = _SumByGains.apply(  # pyright: ignore[reportAssignmentType]
        concepts, positions, everywhere if at is None else at, decays, attended, correction, gains, mean_gains, constant
    )
    return rows.unflatten(0, correction.shape[:2]) if at is None else rows


class _SumByGains(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, concepts: Tensor, positions: Tensor, at: Tensor, decays: Tensor, attended: Tensor, *summed: Tensor
    ) -> Tensor:
        from lvm_pipeline.architectures._loops import add_by_gains

        correction, gains, mean_gains, constant = (each.contiguous() for each in summed)
        given = concepts, decays, positions, at, attended.contiguous()
        mixed = concepts.new_empty(int(at.sum()), concepts.shape[-1])
        arrays = (*given, correction, gains, mean_gains, constant, mixed)
        add_by_gains(*(as_array(each) for each in arrays))
        ctx.save_for_backward(*given, gains, mean_gains, constant)
        ctx.correction_dtype = correction.dtype
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from lvm_pipeline.architectures._loops import add_by_gains_backwards

        *given, gains, mean_gains, constant = ctx.saved_tensors
        attended, grad_mixed = given[-1], gradients[0].contiguous()
        grad_attended, grad_correction = torch.empty_like(attended), grad_mixed.new_empty(attended[:, 0].shape)
        grads_of_gains = [torch.zeros_like(each) for each in (gains, mean_gains, constant)]
        arrays = (*given, gains, grad_mixed, grad_attended, grad_correction, *grads_of_gains)
        add_by_gains_backwards(*(as_array(each) for each in arrays))
        return None, None, None, None, grad_attended, grad_correction.to(ctx.correction_dtype), *grads_of_gains
