"""Convolution of every channel with a kernel as long as the context, in float32 or wider.

Shapes: B = batch, T = context, C = channels.

    y_t = sum_{s<=t} kernel_{t-s} u_s          each channel with its own kernel

Up to `LONGEST_SUM` positions this is the sum as it stands, up to `LONGEST_PRODUCT` a product with a Toeplitz matrix,
both exactly causal; above, both are multiplied in the frequency domain, padded so that nothing wraps round, which is
causal up to rounding. Measured on a CPU, forward and backward: 32 contexts of 5 at width 768 take 2.8 ms as a sum and
15.8 ms as a product, 11 of 37 at width 256 take 16.5 ms and 6.0 ms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._precision import at_least_float32, without_autocast

LONGEST_SUM = 8
LONGEST_PRODUCT = 64


def causal_convolution(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (B, T, C) with a kernel (C, T), its first value for the same position."""
    with without_autocast(inputs):
        inputs, kernel = at_least_float32(inputs), at_least_float32(kernel)
        if inputs.shape[1] <= LONGEST_SUM:
            return _by_sum(inputs, kernel)
        if inputs.shape[1] <= LONGEST_PRODUCT:
            return _by_product(inputs, kernel)
        return _by_fft(inputs, kernel)


def _by_sum(inputs: Tensor, kernel: Tensor) -> Tensor:
    length = inputs.shape[1]
    sums = inputs * kernel[:, 0]
    for lag in range(1, length):
        sums = sums + F.pad(inputs[:, : length - lag] * kernel[:, lag], (0, 0, lag, 0))
    return sums


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
