"""Convolution of every channel with a kernel as long as the context, in float32 or wider.

Shapes: B = batch, T = context, C = channels.

    y_t = sum_{s<=t} kernel_{t-s} u_s          each channel with its own kernel

Up to `LONGEST_PRODUCT` positions the kernel is a Toeplitz matrix, exactly causal; above, both are
multiplied in the frequency domain, padded so that nothing wraps round, which is causal up to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._precision import at_least_float32, without_autocast

LONGEST_PRODUCT = 64


def causal_convolution(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (B, T, C) with a kernel (C, T), its first value for the same position."""
    with without_autocast(inputs):
        inputs, kernel = at_least_float32(inputs), at_least_float32(kernel)
        if inputs.shape[1] <= LONGEST_PRODUCT:
            return _by_product(inputs, kernel)
        return _by_fft(inputs, kernel)


def _by_product(inputs: Tensor, kernel: Tensor) -> Tensor:
    length = inputs.shape[1]
    # Row t of the unfolded kernel is 0 .. 0 kernel_0 .. kernel_t backwards in s, so the inputs are turned round too.
    toeplitz_CTT = F.pad(kernel, (length - 1, 0)).unfold(-1, length, 1)
    return (toeplitz_CTT @ inputs.flip(1).permute(2, 1, 0)).permute(2, 1, 0)


def _by_fft(inputs: Tensor, kernel: Tensor) -> Tensor:
    length = inputs.shape[1]
    padded = 1 << (2 * length - 1).bit_length()
    spectrum = torch.fft.rfft(inputs.transpose(1, 2), n=padded) * torch.fft.rfft(kernel, n=padded)
    return torch.fft.irfft(spectrum, n=padded)[..., :length].transpose(1, 2)
