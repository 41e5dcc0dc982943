"""The head that all architectures share: attention over the concepts read so far, with gains for each direction.

Shapes: B = batch, S = concepts read, Q = positions predicted at, T = context in concepts, D = vector width, H = hidden
width, K = heads, R = head width, M = leading directions, J = decayed means, F = features.

Vectors are scaled to mean square length one and rotated into the principal directions of the train vectors. With x_s
the concept at position s and h_t the mixers' state, position t gets

    m^d_t  = sum_{s<=t} d^(t-s) x_s / sum_{s<=t} d^(t-s)
    z_t    = dropout([x_t, m^0.7_t, m^1_t] in the first M directions) * sqrt(D) / 2.5
    q_t    = (W_q z_t + W_h h_t + b_q) / sqrt(M)           k_s = W_k dropout(x_s in the first M) * sqrt(D / M) / 2.5
    L_kts  = a_k q_tk.k_sk / sqrt(R) + sum_f c_kf F_fts + p_k[bucket(t - s)] + log A_ts             for s <= t
    F      = x_t.x_s, m^0.7_t.x_s, m^1_t.x_s, [s = 0], [s < 3], x_s.x_{s-1}
    A_ts   = (d^(t-s) / sum_{r<=t} d^(t-r) + article_weight / (t + 1)) / (1 + article_weight)
    out_t  = sum_k g_k (softmax(L_k) x)_t + sum_j w_j m^(d_j)_t + c + V U z_t                       g_k, w_j, c: (D,)

a, c_kf, p, W_h, w, c and V start at zero and g at 1/K, so that training starts exactly at the weighted mean A x with
the decay and the article weight fitted on train articles. No feature may read x_{s+1}: at s = t that is the target.

Scores and biases learn fastest and gains slowest; the factors were found by measurement (EXPERIMENTS.md). A step reads
all concepts so far again, so its cost grows with the article; the head of means has a state of fixed size.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.architectures._directions import principal_directions
from lvm_pipeline.architectures._dropout import Dropout
from lvm_pipeline.architectures._gains import can_loop, decayed_means, sum_by_gains
from lvm_pipeline.architectures._precision import at_least_float32, product_dtype, without_autocast
from lvm_pipeline.architectures._residual_head import START_DECAY, check_weighted_mean
from lvm_pipeline.architectures._row_padding import padded_linear

NUM_HEADS = 4
HEAD_WIDTH = 64
LEADING_DIRECTIONS = 128
CORRECTION_RANK = 64
RECENT_DECAY = 0.7  # of the decayed mean that features and inputs read, as they do the plain mean
NUM_FEATURES = 6
LAG_EDGES = (1, 2, 3, 4, 5, 7, 10, 15, 23, 40, 80)  # buckets of t - s: 0, 1, 2, 3, 4, 5-6, 7-9, ...
INPUT_DROPOUT, CORRECTION_DROPOUT = 0.3, 0.5
SMALLEST_WEIGHT = 1e-12  # of A; its logarithm is finite

SCORES = OptimiserSetting(weight_decay=False, learning_rate_factor=40.0)
GAINS = OptimiserSetting(weight_decay=False, learning_rate_factor=0.1)

HeadState = tuple[Tensor, Tensor]  # rotated concepts (B, S, D) and their keys (B, K, S, R)


class MixingHead(nn.Module):
    """Attention over the context and per-direction gains; see the module."""

    optimiser_settings: ClassVar = {
        "score_scale": SCORES,
        "feature_weights": SCORES,
        "lag_bias": SCORES,
        "gains": GAINS,
        "mean_gains": GAINS,
        "constant": GAINS,
        "correction_out": GAINS,
    }

    basis: Tensor
    length: Tensor
    decay: Tensor
    article_weight: Tensor
    decays: Tensor

    def __init__(self, vector_dim: int, hidden_dim: int | None, scales: tuple[float, ...]):
        """Start at the recency-weighted mean; `set_weighted_mean` sets the fitted weights, `fit` the directions.

        `hidden_dim` is H; None: nothing but the context feeds the queries. `scales` are the decays d_j, from 0 (the
        last concept) to 1, of the means that are added besides 0.7 and 1.
        """
        super().__init__()
        leading, heads = min(LEADING_DIRECTIONS, vector_dim), (NUM_HEADS, HEAD_WIDTH)
        self.leading = leading
        self.input_scale = math.sqrt(vector_dim) / 2.5
        self.register_buffer("basis", torch.eye(vector_dim))
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("decay", torch.tensor(START_DECAY))
        self.register_buffer("article_weight", torch.tensor(0.0))
        self.register_buffer("decays", torch.tensor([RECENT_DECAY, 1.0, *scales]), persistent=False)
        self.query = nn.Linear(3 * leading, math.prod(heads))
        self.state_query = None if hidden_dim is None else nn.Linear(hidden_dim, math.prod(heads), bias=False)
        self.key = nn.Linear(leading, math.prod(heads), bias=False)
        self.score_scale = nn.Parameter(torch.zeros(NUM_HEADS))
        self.feature_weights = nn.Parameter(torch.zeros(NUM_HEADS, NUM_FEATURES))
        self.lag_bias = nn.Parameter(torch.zeros(NUM_HEADS, len(LAG_EDGES) + 1))
        self.gains = nn.Parameter(torch.full((NUM_HEADS, vector_dim), 1 / NUM_HEADS))
        self.mean_gains = nn.Parameter(torch.zeros(2 + len(scales), vector_dim))
        self.constant = nn.Parameter(torch.zeros(vector_dim))
        self.correction_in = nn.Linear(3 * leading, CORRECTION_RANK, bias=False)
        self.correction_out = nn.Parameter(torch.zeros(vector_dim, CORRECTION_RANK))
        self.dropout = Dropout(INPUT_DROPOUT)
        self.correction_dropout = Dropout(CORRECTION_DROPOUT)
        nn.init.normal_(self.query.weight, std=math.sqrt(1 / 3))
        nn.init.zeros_(self.query.bias)
        nn.init.normal_(self.key.weight)
        if self.state_query is not None:
            nn.init.zeros_(self.state_query.weight)

    @property
    def reads_states(self) -> bool:
        """Whether states of the mixers change anything, which they do not before training."""
        return self.state_query is not None and bool(self.state_query.weight.any())

    @torch.no_grad()
    def fit(self, train_vectors: Tensor) -> None:
        """Set directions and length from train vectors (N, D): principal directions first."""
        self.length.copy_(train_vectors.double().square().sum(dim=1).mean().sqrt().clamp(min=1e-12))
        self.basis.copy_(principal_directions(train_vectors).directions)

    @torch.no_grad()
    def set_weighted_mean(self, *, decay: float, article_weight: float) -> None:
        """Start from a fitted decay and article weight."""
        check_weighted_mean(decay=decay, article_weight=article_weight)
        self.decay.fill_(decay)
        self.article_weight.fill_(article_weight)

    def forward(self, contexts: Tensor, states: Tensor | None, at: Tensor | None = None) -> Tensor:
        """Predict from contexts (B, T, D) and mixers' states, (B, T, H) or (n, H) where `at` is True.

        Returns (B, T, D), or (n, D) where `at` (B, T) is True, in float32 or wider.
        """
        rotated = self._rotated(contexts)
        positions = torch.arange(contexts.shape[1], device=contexts.device)
        if at is None:
            return self._rotated_back(self._mixed(rotated, self._keys(rotated), positions, states))
        columns = at.any(dim=0)
        at = at[:, columns]
        found = at.flatten().nonzero().squeeze(1)
        if states is not None:
            everywhere = states.new_zeros(at.numel(), states.shape[-1]).index_copy(0, found, states)
            states = everywhere.unflatten(0, at.shape)
        return self._rotated_back(self._mixed(rotated, self._keys(rotated), positions[columns], states, at))

    def prefill(self, contexts: Tensor, states: Tensor | None, state: HeadState | None) -> tuple[Tensor, HeadState]:
        """Predict for contexts that continue from `state` (None at the start); return the state after them."""
        rotated = self._rotated(contexts)
        keys = self._keys(rotated)
        if state is not None:
            rotated, keys = torch.cat([state[0], rotated], dim=1), torch.cat([state[1], keys], dim=2)
        positions = torch.arange(rotated.shape[1], device=rotated.device)[-contexts.shape[1] :]
        return self._rotated_back(self._mixed(rotated, keys, positions, states)), (rotated, keys)

    def _rotated(self, contexts: Tensor) -> Tensor:
        return at_least_float32(padded_linear(at_least_float32(contexts) / self.length, self.basis.T))

    def _rotated_back(self, predictions: Tensor) -> Tensor:
        return at_least_float32(padded_linear(predictions, self.basis)) * self.length

    def _keys(self, rotated: Tensor) -> Tensor:
        leading = self.dropout(rotated[..., : self.leading] * self.input_scale)
        return _split(at_least_float32(self.key(leading))) / math.sqrt(self.leading)

    def _mixed(
        self, rotated: Tensor, keys: Tensor, positions: Tensor, states: Tensor | None, at: Tensor | None = None
    ) -> Tensor:
        """Predict at some positions, the same of each context, in the principal directions.

        Returns (B, Q, D), or (n, D) where `at` (B, Q) is True. Products with weights and with concepts follow autocast,
        everything else is in float32 or wider.
        """
        concepts, by_loops = rotated.to(product_dtype(rotated)), can_loop(rotated)
        with without_autocast(rotated):
            lags = positions[:, None] - torch.arange(rotated.shape[1], device=rotated.device)
            if by_loops:
                means = decayed_means(concepts, self.decays[:2], positions)
            else:
                means = _weighted_sums(self._shares(self.decays, lags), concepts).unbind(1)
            summaries = torch.stack([concepts[:, positions], *means[:2]], dim=1)
        inputs = summaries[..., : self.leading].transpose(1, 2).flatten(2).to(rotated.dtype) * self.input_scale
        queries = self._queries(inputs, states)
        correction = padded_linear(self.correction_in(self.correction_dropout(inputs)), self.correction_out)
        with without_autocast(rotated):
            products = queries @ keys.transpose(-1, -2) / math.sqrt(HEAD_WIDTH)
            scores = self._scores(concepts, summaries, lags) + self.score_scale[:, None, None] * products
            attended = _weighted_sums(scores.softmax(dim=-1), concepts)
            if by_loops:
                gains = {"gains": self.gains, "mean_gains": self.mean_gains, "constant": self.constant}
                return sum_by_gains(concepts, positions, at, attended, correction, decays=self.decays, **gains)
            mixed = self.constant + at_least_float32(correction)
            # added one after the other: (B, K + J, Q, D) would not fit the caches
            for gain, each in zip((*self.gains, *self.mean_gains), (*attended.unbind(1), *means), strict=True):
                mixed = torch.addcmul(mixed, gain, each)
            return mixed if at is None else mixed[at]

    def _queries(self, inputs: Tensor, states: Tensor | None) -> Tensor:
        queries = at_least_float32(self.query(self.dropout(inputs)))
        if self.state_query is not None and states is not None:
            queries = queries + self.state_query(states.to(self.state_query.weight.dtype))
        return _split(queries) / math.sqrt(self.leading)

    def _scores(self, concepts: Tensor, summaries: Tensor, lags: Tensor) -> Tensor:
        """Return everything in the logits but the products of queries and keys, (B, K, Q, S)."""
        # one product a context; a product for each summary would copy the concepts for each
        similarity = at_least_float32(summaries.flatten(1, 2) @ concepts.transpose(-1, -2))
        similarity = similarity.unflatten(1, summaries.shape[1:3])
        scores = torch.einsum("bfqs,kf->bkqs", similarity, self.feature_weights[:, :3])
        before = (concepts[:, 1:] * concepts[:, :-1]).sum(dim=-1, dtype=similarity.dtype)
        before = torch.cat([before.new_zeros(len(before), 1), before], dim=1)
        index = torch.arange(lags.shape[1], device=lags.device)
        of_concept = torch.stack([(index == 0).expand_as(before), (index < 3).expand_as(before), before], dim=-1)
        scores = scores + (of_concept @ self.feature_weights[:, 3:].T).transpose(1, 2)[:, :, None]
        edges = torch.tensor(LAG_EDGES, device=lags.device)
        scores = scores + self.lag_bias[:, torch.bucketize(lags.clamp(min=0), edges, right=True)]
        return (scores + self._log_weights(lags)).masked_fill(lags < 0, float("-inf"))

    def _log_weights(self, lags: Tensor) -> Tensor:
        """Return the logarithm of A, (Q, S)."""
        decays = torch.stack([self.decay, torch.ones_like(self.decay)])
        recent, article = self._shares(decays, lags)
        weights = (recent + self.article_weight * article) / (1 + self.article_weight)
        return weights.clamp(min=SMALLEST_WEIGHT).log()

    def _shares(self, decays: Tensor, lags: Tensor) -> Tensor:
        """Return the weight of each concept in each decayed mean, (J, Q, S); zero after the position."""
        powers = decays[:, None, None] ** lags.clamp(min=0).to(decays.dtype) * (lags >= 0)
        return powers / powers.sum(dim=-1, keepdim=True)


def _weighted_sums(weights: Tensor, concepts: Tensor) -> Tensor:
    """Return the sums of the concepts (B, S, D) by several weights, (N, Q, S) or (B, N, Q, S), as (B, N, Q, D)."""
    sums = weights.flatten(-3, -2).to(concepts.dtype) @ concepts
    return sums.unflatten(1, weights.shape[-3:-1])


def _split(states: Tensor) -> Tensor:
    """Split into heads, (B, S, K * R) -> (B, K, S, R)."""
    return states.unflatten(-1, (NUM_HEADS, HEAD_WIDTH)).transpose(1, 2)


def reference_mixing(head: MixingHead, contexts: Tensor, states: Tensor | None = None) -> Tensor:
    """Predict by the formulas of the module, one position and one head at a time, without dropout; the slow twin."""
    rows = contexts / head.length @ head.basis
    predictions = []
    for t in range(rows.shape[1]):
        so_far, scale = rows[:, : t + 1], math.sqrt(head.leading)
        means = [_reference_mean(so_far, decay) for decay in head.decays.tolist()]
        summaries = [so_far[:, -1], means[0], means[1]]
        inputs = torch.cat([each[:, : head.leading] for each in summaries], dim=-1) * head.input_scale
        queries = head.query(inputs)
        if head.state_query is not None and states is not None:
            queries = queries + head.state_query(states[:, t])
        keys = head.key(so_far[..., : head.leading] * head.input_scale)
        out = head.constant + head.correction_in(inputs) @ head.correction_out.T
        for k in range(NUM_HEADS):
            part = slice(k * HEAD_WIDTH, (k + 1) * HEAD_WIDTH)
            query, key = queries[:, part] / scale, keys[..., part] / scale
            logits = torch.stack([
                head.score_scale[k] * (query * key[:, s]).sum(-1) / math.sqrt(HEAD_WIDTH)
                + _reference_features(so_far, summaries, s) @ head.feature_weights[k]
                + head.lag_bias[k, sum(t - s >= edge for edge in LAG_EDGES)]
                + _reference_weight(head, t, s).log()
                for s in range(t + 1)
            ])  # fmt: skip
            out = out + head.gains[k] * torch.einsum("sb,bsd->bd", logits.softmax(dim=0), so_far)
        predictions.append(out + sum(gain * mean for gain, mean in zip(head.mean_gains, means, strict=True)))
    return torch.stack(predictions, dim=1) @ head.basis.T * head.length


def _reference_mean(rows: Tensor, decay: float) -> Tensor:
    weights = torch.tensor([decay**lag for lag in reversed(range(rows.shape[1]))], dtype=rows.dtype)
    return torch.einsum("s,bsd->bd", weights / weights.sum(), rows)


def _reference_weight(head: MixingHead, t: int, s: int) -> Tensor:
    decayed = head.decay ** (t - s) / sum(head.decay**lag for lag in range(t + 1))
    weight = (decayed + head.article_weight / (t + 1)) / (1 + head.article_weight)
    return weight.clamp(min=SMALLEST_WEIGHT)


def _reference_features(rows: Tensor, summaries: list[Tensor], s: int) -> Tensor:
    similar = [(summary * rows[:, s]).sum(-1) for summary in summaries]
    before = (rows[:, s] * rows[:, s - 1]).sum(-1) if s else torch.zeros_like(similar[0])
    return torch.stack([*similar, torch.full_like(before, s == 0), torch.full_like(before, s < 3), before], dim=-1)
