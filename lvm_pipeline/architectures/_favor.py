"""FAVOR+: causal attention whose softmax is estimated by positive random features.

Paper: Choromanski et al., Rethinking Attention with Performers, 2020 (arXiv 2009.14794), section 2.3. Code:
performer-pytorch 1.1.4, `softmax_kernel`, `generalized_kernel` and `causal_linear_attention_noncuda`.

Shapes: B = batch, T = context, K = heads, N = head width, M = features, P = value width.

With W the M x N projection and q, k divided by N^(1/4), the features of the softmax are

    q'_t   = (exp(W q_t - |q_t|^2 / 2 - max_j (W q_t)_j) + 1e-4) / sqrt(M)
    k'_s|t = (exp(W k_s - |k_s|^2 / 2 - m_t) + 1e-4) / sqrt(M)                 m_t = max_{s<=t, j} (W k_s)_j
    y_t    = q'_t . sum_{s<=t} k'_s|t v_s^T / q'_t . (sum_{s<=t} k'_s|t + 1e-6)

and those of the generalised attention relu(W q) + 1e-3, relu(W k) + 1e-3. The maxima keep exp in range. Without the
1e-4 and 1e-6 they would cancel; they are treated as constants, so no gradient passes through them. The authors' m is
the largest of the whole context, through which the future would be seen; ours at t is what theirs is for the context
up to t. It only rises, so the sums up to t - 1 fade by exp(m_{t-1} - m_t): the T x T matrix and the recurrence of
`_decayed_attention`, with a column of ones beside the values for the denominator.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.architectures._decayed_attention import decayed_attention
from lvm_pipeline.architectures._precision import at_least_float32, without_autocast

SOFTMAX_FLOOR = 1e-4  # added to every feature of the softmax
RELU_FLOOR = 1e-3  # and of the generalised attention
SUM_FLOOR = 1e-6  # added to every entry of the running sum of keys

KERNELS = ("softmax", "relu")


class Features(NamedTuple):
    """Features of queries and keys, (B, T, K, M), in float32 or wider.

    Those of position s are k'_s|s without `floor`, which is added after they have faded; `maximum` is m, (B, T, K).
    """

    queries: Tensor
    keys: Tensor
    maximum: Tensor
    floor: float


class FavorState(NamedTuple):
    """What later positions need of all before: m, the faded sum of k' [v 1]^T, and the sum of [v 1]."""

    maximum: Tensor  # (B, K)
    memory: Tensor  # (B, K, M, P + 1)
    total: Tensor  # (B, K, P + 1)


def orthogonal_projection(num_features: int, width: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw W, (M, N): rows orthogonal in blocks of N, with the lengths of Gaussian rows."""
    num_blocks = math.ceil(num_features / width)
    blocks = [torch.linalg.qr(torch.randn(width, width, generator=generator))[0].T for _ in range(num_blocks)]
    lengths = torch.randn(num_features, width, generator=generator).norm(dim=1)
    return lengths[:, None] * torch.cat(blocks)[:num_features]


def favor_features(
    queries: Tensor, keys: Tensor, projection: Tensor, *, kernel: str, maximum: Tensor | None = None
) -> Features:
    """Turn queries and keys (B, T, K, N) into features by W (M, N), in float32 or wider.

    `kernel` is one of `KERNELS`; `maximum` is m before the first position, (B, K), None at the start.
    """
    with without_autocast(queries):
        queries, keys = (at_least_float32(each) * each.shape[-1] ** -0.25 for each in (queries, keys))
        projected_queries, projected_keys = queries @ projection.T, keys @ projection.T
        if kernel == "relu":
            query_features, key_features = (F.relu(each) + RELU_FLOOR for each in (projected_queries, projected_keys))
            return Features(query_features, key_features, torch.zeros_like(key_features[..., 0]), 0.0)
        scale = 1 / math.sqrt(len(projection))
        so_far = largest_so_far(projected_keys.detach(), maximum)
        own = projected_queries.detach().amax(-1)
        query_features = (projected_queries - _half_square(queries) - own[..., None]).exp() + SOFTMAX_FLOOR
        key_features = (projected_keys - _half_square(keys) - so_far[..., None]).exp()
        return Features(scale * query_features, scale * key_features, so_far, scale * SOFTMAX_FLOOR)


def _half_square(states: Tensor) -> Tensor:
    return states.square().sum(-1, keepdim=True) / 2


def largest_so_far(projected_keys: Tensor, before: Tensor | None) -> Tensor:
    """Return m (B, T, K) for W k (B, T, K, M), not below the maximum of earlier positions (B, K)."""
    so_far = projected_keys.amax(-1).cummax(1).values
    return so_far if before is None else torch.maximum(so_far, before[:, None])


def favor_attention(
    features: Features, values: Tensor, *, state: FavorState | None = None, returns_state: bool = False
) -> tuple[Tensor, FavorState | None]:
    """Attend by features, made with the maximum of `state`, to values (B, T, K, P).

    Returns y (B, T, K, P) in float32 or wider, and the state after the last position if `returns_state`.
    """
    queries, keys, maximum, floor = features
    before = maximum[:, :1] if state is None else state.maximum[:, None]
    values = F.pad(at_least_float32(values), (0, 1), value=1.0)
    mixed, memory = decayed_attention(
        queries,
        keys,
        values,
        log_decay=torch.cat([before, maximum[:, :-1]], dim=1) - maximum,
        state=None if state is None else state.memory,
        returns_state=returns_state,
    )
    totals = values.cumsum(1) if state is None else values.cumsum(1) + state.total[:, None]
    of_floor = queries.sum(-1, keepdim=True)
    mixed = at_least_float32(mixed) + floor * of_floor * totals
    attended = mixed[..., :-1] / (mixed[..., -1:] + SUM_FLOOR * of_floor)
    if not returns_state:
        return attended, None
    assert memory is not None
    return attended, FavorState(maximum[:, -1], memory, totals[:, -1])


def reference_favor_attention(
    queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *, kernel: str
) -> Tensor:
    """Attend by the formula, each position from the features of the context up to it; the slow twin."""
    queries, keys = queries * queries.shape[-1] ** -0.25, keys * keys.shape[-1] ** -0.25
    attended = []
    for t in range(values.shape[1]):
        query, past = queries[:, t] @ projection.T, keys[:, : t + 1] @ projection.T
        if kernel == "relu":
            query, past = query.relu() + RELU_FLOOR, past.relu() + RELU_FLOOR
        else:
            largest = past.detach().amax(dim=(1, 3), keepdim=True)
            past = (past - keys[:, : t + 1].square().sum(-1, keepdim=True) / 2 - largest).exp() + SOFTMAX_FLOOR
            own = query.detach().amax(-1, keepdim=True)
            query = (query - queries[:, t].square().sum(-1, keepdim=True) / 2 - own).exp() + SOFTMAX_FLOOR
            query, past = query / math.sqrt(len(projection)), past / math.sqrt(len(projection))
        weights = torch.einsum("bkm,bskm->bks", query, past)
        denominator = torch.einsum("bkm,bkm->bk", query, past.sum(1) + SUM_FLOOR)
        attended.append(torch.einsum("bks,bskp->bkp", weights, values[:, : t + 1]) / denominator[..., None])
    return torch.stack(attended, dim=1)
