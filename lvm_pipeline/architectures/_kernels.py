"""Optional GPU kernels, each compared with the PyTorch implementation before it is used.

mamba-ssm and flash-linear-attention are not dependencies of this project. If one is installed, its kernel is used for
contexts on a GPU that are longer than one chunk. Outputs and gradients on noise are first compared with those of the
PyTorch implementation, once per GPU; a kernel that differs or fails is not used, with a warning. The PyTorch
implementation is the reference, and the only one on a CPU.

    operator             kernel                                                        signature read in
    Mamba-2's SSD        mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined   mamba e9594ce
    RetNet's retention   fla.ops.retention.chunk_retention                             fla-core 0.6.0
    RWKV-7's delta rule  fla.ops.rwkv7.chunk_rwkv7                                     fla-core 0.6.0

A form of an operator is a function of tensors, `state` (before the first position, or nothing) and `returns_state`,
that returns the outputs and the state after the last position, or nothing.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lvm_pipeline.errors import first_line

LONGEST_CHUNK = 64  # positions up to which the torch forms are one product
TOLERANCE = 1e-2  # of the length of an output or a gradient; kernels multiply in TensorFloat-32
LOWEST_LOG_DECAY = -0.6066  # of RWKV-7: -exp(-1/2), rounded down

Form = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class OptionalKernel:
    """A kernel that may be installed, and the PyTorch implementation that it replaces."""

    name: str  # package, module and function
    adapt: Callable[[Callable[..., Any]], Form]  # gives the kernel the signature of `torch_form`
    torch_form: Form
    # draws the tensors of a comparison by name, of the presets' sizes
    example: Callable[[torch.device], Mapping[str, Tensor]]
    _forms: dict[torch.device, Form] = field(default_factory=dict, repr=False)

    def form_for(self, values: Tensor) -> Form:
        """Return the form to use for values (B, T, ...): the kernel where it is faster and correct, else PyTorch's."""
        if not values.is_cuda or values.shape[1] <= LONGEST_CHUNK or values.dtype == torch.float64:
            return self.torch_form
        return self.checked_form(values.device)

    def checked_form(self, device: torch.device) -> Form:
        """Return the kernel if it is installed and agrees with the torch form on this device, compared once."""
        if device not in self._forms:
            self._forms[device] = self._checked(device)
        return self._forms[device]

    def _checked(self, device: torch.device) -> Form:
        if find_spec(self.name.partition(".")[0]) is None:
            return self.torch_form
        module, _, function = self.name.rpartition(".")
        try:
            kernel = self.adapt(getattr(importlib.import_module(module), function))
            difference = self._difference(kernel, device)
        except _failures() as error:
            return self._dropped(f"fails ({first_line(error)})")
        if not difference <= TOLERANCE:  # or is NaN
            return self._dropped(f"differs from the PyTorch implementation by {difference:.2g} of its length")
        return kernel

    def _dropped(self, reason: str) -> Form:
        warnings.warn(
            f"The kernel {self.name} {reason}; the PyTorch implementation is used.", RuntimeWarning, stacklevel=2
        )
        return self.torch_form

    def _difference(self, kernel: Form, device: torch.device) -> float:
        """Return the largest difference of an output, the state or a gradient, as a share of the torch form's."""
        tensors = self.example(device)
        with torch.autocast(device.type, enabled=False):
            found, expected = (_outputs_and_gradients(form, tensors) for form in (kernel, self.torch_form))
        shares = [(one - other).norm() / other.norm() for one, other in zip(found, expected, strict=True)]
        return float(torch.stack(shares).max())


def _outputs_and_gradients(form: Form, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    with torch.enable_grad():
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
        outputs, state = form(**leaves, returns_state=True)
        assert state is not None
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(each.shape, generator=generator).to(each) for each in (outputs, state)]
        gradients = torch.autograd.grad((outputs, state), list(leaves.values()), grad_outputs=weights)
    return [outputs.detach().float(), state.detach().float(), *(gradient.float() for gradient in gradients)]


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of a kernel that does not support this GPU, compiler or version."""
    known = (ImportError, RuntimeError, AttributeError, TypeError, ValueError, AssertionError)
    if find_spec("triton") is None:
        return known
    return (*known, importlib.import_module("triton.errors").TritonError)


def state_space_form(mamba_chunk_scan_combined: Callable[..., Any]) -> Form:
    """Adapt mamba-ssm's kernel, whose states are (B, K, P, N), to `_mamba2_mixer`."""

    def form(
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        *,
        dt_bias: Tensor,
        state: Tensor | None = None,
        returns_state: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        y, after = mamba_chunk_scan_combined(
            x,
            dt,
            A,
            B.to(x.dtype),
            C.to(x.dtype),
            chunk_size=LONGEST_CHUNK,
            D=D,
            dt_bias=dt_bias,
            initial_states=None if state is None else state.mT.contiguous(),
            dt_softplus=True,
            return_final_states=True,
        )
        return y, after.mT if returns_state else None

    return form


def retention_form(chunk_retention: Callable[..., Any]) -> Form:
    """Adapt flash-linear-attention's retention, which derives the decays from the number of heads, to `retnet`."""

    def form(
        queries: Tensor, keys: Tensor, values: Tensor, *, state: Tensor | None = None, returns_state: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        return chunk_retention(
            queries.contiguous(),
            keys.contiguous(),
            values.contiguous(),
            scale=1.0,
            initial_state=state,
            output_final_state=returns_state,
        )

    return form


def delta_rule_form(chunk_rwkv7: Callable[..., Any]) -> Form:
    """Adapt flash-linear-attention's RWKV-7 to `_delta_rule`."""

    def form(
        r: Tensor,
        log_decay: Tensor,
        k: Tensor,
        v: Tensor,
        a: Tensor,
        b: Tensor,
        *,
        state: Tensor | None = None,
        returns_state: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        parts = (part.contiguous() for part in (r, log_decay, k, v, a, b))
        return chunk_rwkv7(
            *parts, scale=1.0, initial_state=state, output_final_state=returns_state, lower_bound=LOWEST_LOG_DECAY
        )

    return form
