"""RWKV-7's memory: it fades in every channel, forgets along one direction and writes along another.

Paper: Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025 (arXiv 2503.14456),
equation 17, here with keys as rows.

Shapes: B = batch, T = context, K = heads, N = key width, P = value width, c = chunk length.

    S_t = diag(exp(w_t)) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T          y_t = S_t^T r_t          (S is N x P)

In parallel, with C_t = w_1 + .. + w_t, what is read for forgetting is U, whose row t is a_t^T S_{t-1}:

    r~ = r exp(C)    a~ = a exp(C - w)    k~ = k exp(-C)    b~ = b exp(-C)
    U = (I - tril(a~ b~^T, -1))^-1 (tril(a~ k~^T, -1) V + a~ S_0)               a unit triangular solve
    Y = tril(r~ k~^T) V + tril(r~ b~^T) U + r~ S_0
    S_T = diag(exp(C_T)) (S_0 + k~^T V + b~^T U)

exp(-C) grows with the length, at most by exp(0.61) a position in RWKV-7: 64 positions stay far inside
float32, 146 do not. So longer contexts are cut into chunks of `CHUNK`; all but the S between them is
computed for all chunks at once. Everything is in float32 or wider.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._kernels import LONGEST_CHUNK as CHUNK
from lvm_pipeline.architectures._kernels import OptionalKernel, delta_rule_form
from lvm_pipeline.architectures._precision import at_least_float32, without_autocast


def torch_delta_rule(
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
    """Run the memory over a context in PyTorch (`DELTA_RULE` also has a kernel); names follow the paper.

    Args:
        r: What is read, (B, T, K, N).
        log_decay: w, below 0, (B, T, K, N); a kernel takes it for RWKV-7's, not below -exp(-1/2).
        k: Where it is written, (B, T, K, N).
        v: What is written, (B, T, K, P).
        a: Along what it forgets, (B, T, K, N).
        b: Where what is read along `a` is added, (B, T, K, N).
        state: S before the first position, (B, K, N, P); zero if left out.
        returns_state: Whether to return the state after the last position (else None) beside y (B, T, K, P).
    """
    with without_autocast(r):
        length = r.shape[1]
        num_chunks = -(-length // CHUNK)
        chunk = length if num_chunks == 1 else CHUNK
        parts = [_in_chunks(part, num_chunks, chunk) for part in (r, log_decay, k, v, a, b)]
        y, after = _over_chunks(*parts, state=state, returns_state=returns_state)
        return y.flatten(2, 3)[:, :, :length].transpose(1, 2), after


def _in_chunks(part: Tensor, num_chunks: int, chunk: int) -> Tensor:
    """Cut (B, T, K, N) to (B, K, n, c, N); the padding neither fades, nor reads, nor writes."""
    part = at_least_float32(part).transpose(1, 2)
    return F.pad(part, (0, 0, 0, num_chunks * chunk - part.shape[2])).unflatten(2, (num_chunks, chunk))


def _over_chunks(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, *, state: Tensor | None, returns_state: bool
) -> tuple[Tensor, Tensor | None]:
    faded = w.cumsum(-2)
    grown = (-faded).exp()
    r, a, k_grown, b_grown = r * faded.exp(), a * (faded - w).exp(), k * grown, b * grown
    forgets = (a @ b_grown.mT).tril(-1)
    reads = (a @ k_grown.mT).tril(-1) @ v
    identity = torch.eye(w.shape[-2], dtype=w.dtype, device=w.device)

    def solved(right: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(identity - forgets, right, upper=False, unitriangular=True)

    num_chunks = w.shape[2]
    if state is None and num_chunks == 1 and not returns_state:
        return (r @ k_grown.mT).tril() @ v + (r @ b_grown.mT).tril() @ solved(reads), None
    from_values, from_state = solved(torch.cat([reads, a], dim=-1)).split((v.shape[-1], a.shape[-1]), dim=-1)
    left = (faded[..., -1:, :] - faded).exp()
    k_left, b_left, all_faded = k * left, b * left, faded[..., -1, :].exp()[..., None]
    state = v.new_zeros(*v.shape[:2], k.shape[-1], v.shape[-1]) if state is None else state
    before, forgotten = [], []
    for chunk in range(num_chunks):
        before.append(state)
        u = from_values[:, :, chunk] + from_state[:, :, chunk] @ state
        forgotten.append(u)
        written = k_left[:, :, chunk].mT @ v[:, :, chunk] + b_left[:, :, chunk].mT @ u
        state = all_faded[:, :, chunk] * state + written
    read = r @ torch.stack(before, dim=2)
    return (r @ k_grown.mT).tril() @ v + (r @ b_grown.mT).tril() @ torch.stack(forgotten, dim=2) + read, state


def _example(device: torch.device) -> dict[str, Tensor]:
    """Draw inputs like those of RWKV-7: longer than two chunks, heads of 64, `a` of unit length and `b` against it."""
    batch, length, heads, width = 2, 150, 2, 64
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    removed = F.normalize(draw(batch, length, heads, width), dim=-1)
    return {
        "r": draw(batch, length, heads, width),
        "log_decay": -0.6065 * draw(batch, length, heads, width).sigmoid(),
        "k": draw(batch, length, heads, width) / width**0.5,
        "v": draw(batch, length, heads, width),
        "a": -removed,
        "b": removed * draw(batch, length, heads, width).sigmoid(),
        "state": draw(batch, heads, width, width),
    }


DELTA_RULE = OptionalKernel(
    name="fla.ops.rwkv7.chunk_rwkv7", adapt=delta_rule_form, torch_form=torch_delta_rule, example=_example
)


def reference_delta_rule(r: Tensor, log_decay: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Follow the recurrence above one position at a time; the slow twin."""
    state = v.new_zeros(r.shape[0], r.shape[2], k.shape[-1], v.shape[-1])
    outputs = []
    for t in range(r.shape[1]):
        read = torch.einsum("bkn,bknp->bkp", a[:, t], state)
        state = log_decay[:, t].exp()[..., None] * state
        state = state + b[:, t, :, :, None] * read[:, :, None] + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(torch.einsum("bkn,bknp->bkp", r[:, t], state))
    return torch.stack(outputs, dim=1)
