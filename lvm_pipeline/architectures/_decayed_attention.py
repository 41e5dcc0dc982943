"""Linear attention whose memory fades: what Mamba-2's SSD and RetNet's retention have in common.

Shapes: B = batch, T = context, K = heads, G = groups of heads that share queries and keys, N = key
width, P = value width, c = chunk length, n = chunks.

    S_t = exp(a_t) S_{t-1} + w_t k_t v_t^T        y_t = S_t^T q_t        (S is N x P, one a head)

With A_t = a_1 + .. + a_t this is y_t = sum_{s<=t} exp(A_t - A_s) w_s (q_t . k_s) v_s: one T x T matrix
a head. Above `CHUNK` positions the context is cut into chunks of that length, each the same matrix plus
what the state before it says; a last chunk is filled up with positions that neither fade nor write.
A is summed and subtracted in float64, since far into a chunk it is large and its differences are small.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._kernels import LONGEST_CHUNK as CHUNK
from lvm_pipeline.architectures._precision import at_least_float32, without_autocast


def decayed_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    log_decay: Tensor,
    write: Tensor | None = None,
    state: Tensor | None = None,
    returns_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attend with fading memory.

    Args:
        queries: (B, T, G, N), like `keys`; head k reads group k // (K/G).
        keys: (B, T, G, N).
        values: (B, T, K, P).
        log_decay: a, at most 0, (B or 1, T, K).
        write: w, (B, T, K); one everywhere if left out.
        state: S before the first position, (B, K, N, P); zero if left out.
        returns_state: Whether to return the state after the last position (else None) beside y (B, T, K, P).
    """
    log_decay = at_least_float32(log_decay)
    write = None if write is None else at_least_float32(write)
    if values.shape[1] > CHUNK:
        return _by_chunks(queries, keys, values, log_decay, write, state)
    total_BTK = _total(log_decay)
    mixed = _within(queries, keys, values, total_BTK, write)
    if state is not None:
        mixed = mixed + _read(queries, total_BTK, state)
    if not returns_state:
        return mixed, None
    after = _written(keys, values, total_BTK, write)
    return mixed, after if state is None else after + _faded(total_BTK[:, -1], state)


def _total(log_decay: Tensor) -> Tensor:
    return log_decay.cumsum(1, dtype=torch.float64)


def _exp(log_fading: Tensor, *, like: Tensor) -> Tensor:
    """Return the fading in float32, or in float64 where the model is."""
    return log_fading.to(torch.promote_types(like.dtype, torch.float32)).exp()


def _within(queries: Tensor, keys: Tensor, values: Tensor, total_BTK: Tensor, write: Tensor | None) -> Tensor:
    """Mix a chunk by its T x T matrix, (B, T, K, P)."""
    batch, length, num_heads, _ = values.shape
    scores_BGTT = queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1)
    total_BKT = total_BTK.transpose(1, 2)
    is_future = torch.ones(length, length, dtype=torch.bool, device=values.device).triu(1)
    log_fading_BKTT = (total_BKT[..., :, None] - total_BKT[..., None, :]).masked_fill(is_future, -torch.inf)
    fading_BKTT = _exp(log_fading_BKTT, like=values)
    if write is not None:
        fading_BKTT = fading_BKTT * write.transpose(1, 2)[..., None, :]
    by_group = fading_BKTT.unflatten(1, (scores_BGTT.shape[1], -1)) * scores_BGTT[:, :, None]
    mixed = by_group.view(batch, num_heads, length, length).to(values.dtype) @ values.transpose(1, 2)
    return mixed.transpose(1, 2)


def _read(queries: Tensor, total_BTK: Tensor, state: Tensor) -> Tensor:
    """Return what the positions read from the state before the chunk, (B, T, K, P)."""
    num_groups = queries.shape[2]
    state_BGRNP = state.unflatten(1, (num_groups, -1))
    read = queries.transpose(1, 2)[:, :, None].to(state.dtype) @ state_BGRNP
    return read.flatten(1, 2).transpose(1, 2) * _exp(total_BTK, like=state)[..., None]


def _written(keys: Tensor, values: Tensor, total_BTK: Tensor, write: Tensor | None) -> Tensor:
    """Return what a chunk adds to the state, (B, K, N, P), in float32 or wider."""
    with without_autocast(values):
        weights_BTK = _exp(total_BTK[:, -1:] - total_BTK, like=values)
        weights_BTK = weights_BTK if write is None else weights_BTK * write
        weighted = at_least_float32(values) * weights_BTK[..., None]
        by_group = weighted.unflatten(2, (keys.shape[2], -1)).permute(0, 2, 3, 1, 4)
        added = at_least_float32(keys).permute(0, 2, 3, 1)[:, :, None] @ by_group
        return added.flatten(1, 2)


def _faded(total_BK: Tensor, state: Tensor) -> Tensor:
    return _exp(total_BK, like=state)[..., None, None] * state


def _by_chunks(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, write: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, length, num_heads, _ = values.shape
    num_chunks = -(-length // CHUNK)

    def chunked(tensor: Tensor) -> Tensor:
        filled = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, num_chunks * CHUNK - length))
        return filled.unflatten(1, (num_chunks, CHUNK)).flatten(0, 1)

    queries, keys, values = chunked(queries), chunked(keys), chunked(values)
    write = None if write is None else chunked(write)
    total = _total(chunked(log_decay.expand(batch, length, num_heads)))
    mixed = _within(queries, keys, values, total, write)
    written = _written(keys, values, total, write).unflatten(0, (batch, num_chunks))
    fading = total[:, -1].unflatten(0, (batch, num_chunks))
    state = torch.zeros_like(written[:, 0]) if state is None else state
    before = []
    for chunk in range(num_chunks):
        before.append(state)
        state = _faded(fading[:, chunk], state) + written[:, chunk]
    mixed = mixed + _read(queries, total, torch.stack(before, dim=1).flatten(0, 1))
    return mixed.unflatten(0, (batch, num_chunks)).flatten(1, 2)[:, :length], state


def reference_decayed_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, log_decay: Tensor, write: Tensor | None = None
) -> Tensor:
    """Follow the recurrence above one position and head at a time; the slow twin."""
    batch, length, num_heads, width = values.shape
    heads_a_group = num_heads // keys.shape[2]
    state = values.new_zeros(batch, num_heads, keys.shape[3], width)
    mixed = []
    for t in range(length):
        key = keys[:, t].repeat_interleave(heads_a_group, dim=1)
        query = queries[:, t].repeat_interleave(heads_a_group, dim=1)
        value = values[:, t] if write is None else write[:, t, :, None] * values[:, t]
        state = log_decay[:, t].exp()[..., None, None] * state + torch.einsum("bkn,bkp->bknp", key, value)
        mixed.append(torch.einsum("bkn,bknp->bkp", query, state))
    return torch.stack(mixed, dim=1)
