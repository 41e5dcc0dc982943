"""The model of the prefix decoder: a small causal transformer that writes a text after soft tokens made from a vector.

Shapes: B = texts, D = vector width, H = hidden width, P = soft tokens, M = tokens of a text, V = vocabulary.

    z       = (v - mean) * scale                       mean and spread of the train vectors; scale is one number
    prefix  = W_p z, P states of width H               read before the first token of the text
    h       = transformer(prefix, tokens)              pre-norm, learned positions, causal attention
    logits  = E (norm(h) + W_b z) + b                  E is the embedding of the tokens, too

The second path from the vector, W_b, makes the words of its topic likely at every position; b starts at the
log frequencies of the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.architectures._attention import CausalSelfAttention, KeysAndValues
from lvm_pipeline.architectures._mlp import Mlp

START_DEVIATION = 0.02
END, PADDING = 0, 0  # the token after a text; padding tokens are ignored
IGNORED = -100  # target of a position that does not count

State = tuple[Tensor, list[KeysAndValues]]


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """Sizes of the model."""

    vector_dim: int
    vocabulary_size: int = 4096
    hidden_dim: int = 192
    num_layers: int = 3
    num_heads: int = 4
    num_soft_tokens: int = 8
    max_tokens: int = 128


class Block(nn.Module):
    """Attention, then an MLP, each with a norm before and a residual connection."""

    def __init__(self, config: PrefixConfig):
        super().__init__()
        width, heads = config.hidden_dim, config.num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, num_heads=heads, num_key_value_heads=heads, has_bias=True)
        self.mlp = Mlp(width, 4 * width)

    def prefill(self, states: Tensor, state: KeysAndValues | None) -> tuple[Tensor, KeysAndValues]:
        """Apply attention and MLP after earlier keys and values; also return the keys and values so far."""
        attended, state = self.attention.prefill(self.attention_norm(states), state)
        states = states + attended
        return states + self.mlp(self.mlp_norm(states)), state


class PrefixModel(nn.Module):
    """Logits of the next token of a text, given the text's vector."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: PrefixConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary_size, config.hidden_dim)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        self.positions = nn.Parameter(torch.empty(config.num_soft_tokens + config.max_tokens, config.hidden_dim))
        self.prefix = nn.Linear(config.vector_dim, config.num_soft_tokens * config.hidden_dim)
        self.topic = nn.Linear(config.vector_dim, config.hidden_dim)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.register_buffer("mean", torch.zeros(config.vector_dim))
        self.register_buffer("scale", torch.ones(()))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=START_DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=START_DEVIATION)

    @property
    def end(self) -> int:
        """Token after a text."""
        return END

    @property
    def max_tokens(self) -> int:
        """Longest text."""
        return self.config.max_tokens

    def start(self, vectors: Tensor) -> tuple[Tensor, State]:
        """Read the prefix of each vector, (B, D).

        Return logits of the first token (B, V) and a state: the shift of the output by the vector (B, H), and keys and
        values of each layer.
        """
        inputs = (vectors - self.mean) * self.scale
        topic = self.topic(inputs)
        prefix = self.prefix(inputs).unflatten(-1, (self.config.num_soft_tokens, -1))
        states, layers = self._run(prefix + self.positions[: self.config.num_soft_tokens], None)
        return self._logits(states[:, -1:], topic)[:, 0], (topic, layers)

    def go_on(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more token of each text (B,) and return the logits of the next (B, V) with the new state."""
        topic, layers = state
        embedded = self.tokens(tokens[:, None]) + self.positions[layers[0][0].shape[2]]
        states, layers = self._run(embedded, layers)
        return self._logits(states, topic)[:, 0], (topic, layers)

    def chosen(self, state: State, rows: Tensor) -> State:
        """Return the state of some rows, which may repeat."""
        topic, layers = state
        return topic[rows], [(keys[rows], values[rows]) for keys, values in layers]

    def losses(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Return the cross-entropy of each token (B, M), zero where it is `IGNORED`, given the vectors (B, D)."""
        inputs = (vectors - self.mean) * self.scale
        prefix = self.prefix(inputs).unflatten(-1, (self.config.num_soft_tokens, -1))
        read = torch.where(tokens[:, :-1] == IGNORED, PADDING, tokens[:, :-1])
        states = torch.cat([prefix, self.tokens(read)], dim=1)
        states, _ = self._run(states + self.positions[: states.shape[1]], None)
        logits = self._logits(states[:, self.config.num_soft_tokens - 1 :], self.topic(inputs))
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=IGNORED, reduction="none").view(
            tokens.shape
        )

    def _run(self, states: Tensor, before: Sequence[KeysAndValues] | None) -> tuple[Tensor, list[KeysAndValues]]:
        found = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            states, state = block.prefill(states, None if before is None else before[index])
            found.append(state)
        return states, found

    def _logits(self, states: Tensor, topic: Tensor) -> Tensor:
        return F.linear(self.norm(states) + topic[:, None], self.tokens.weight, self.bias)
