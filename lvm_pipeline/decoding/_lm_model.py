"""A frozen causal language model that reads soft tokens made from a vector; only the map to soft tokens is trained.

Shapes: B = texts, D = vector width, H = width of the language model, P = soft tokens, M = tokens, V = vocabulary.

    z       = (v - mean) * scale           mean and spread of the train vectors; scale is one number
    prefix  = W z + b, P states of width H in place of embedded tokens
    logits  = language model(prefix, embedded tokens of the text)
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm_pipeline.decoding._prefix_model import IGNORED, PADDING


@dataclass(frozen=True, kw_only=True)
class LmConfig:
    """Sizes of the model."""

    vector_dim: int
    hidden_dim: int  # of the language model
    end: int  # token after a text
    num_soft_tokens: int = 8
    max_tokens: int = 128


class LmModel(nn.Module):
    """Logits of the next token of a text, given the text's vector."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: LmConfig, lm: nn.Module):
        """Take a language model of transformers; its weights are frozen."""
        super().__init__()
        self.config = config
        self.lm = lm.eval().requires_grad_(False)
        self.prefix = nn.Linear(config.vector_dim, config.num_soft_tokens * config.hidden_dim)
        self.register_buffer("mean", torch.zeros(config.vector_dim))
        self.register_buffer("scale", torch.ones(()))
        # Soft tokens begin as long as embedded ones.
        spread = float(self._embedding.weight.detach().float().std())
        nn.init.normal_(self.prefix.weight, std=spread / config.vector_dim**0.5)
        nn.init.zeros_(self.prefix.bias)

    @property
    def end(self) -> int:
        """Token after a text."""
        return self.config.end

    @property
    def max_tokens(self) -> int:
        """Longest text."""
        return self.config.max_tokens

    @property
    def _embedding(self) -> Any:
        found: Any = self.lm.get_input_embeddings
        return found()

    def train(self, mode: bool = True) -> "LmModel":
        """Set the mode; the language model never drops anything out."""
        super().train(mode)
        self.lm.eval()
        return self

    def start(self, vectors: Tensor) -> tuple[Tensor, Any]:
        """Read the soft tokens of each vector, (B, D); return logits of the first token (B, V) and a cache."""
        found = self.lm(inputs_embeds=self._soft_tokens(vectors), use_cache=True)
        return found.logits[:, -1].float(), found.past_key_values

    def go_on(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one more token of each text (B,) and return the logits of the next (B, V) with the new cache."""
        found = self.lm(input_ids=tokens[:, None], past_key_values=state, use_cache=True)
        return found.logits[:, -1].float(), found.past_key_values

    def chosen(self, state: Any, rows: Tensor) -> Any:
        """Return the cache of some rows, which may repeat; the given one changes."""
        state.reorder_cache(rows)
        return state

    def losses(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Return the cross-entropy of each token (B, M), zero where it is `IGNORED`, given the vectors (B, D)."""
        read = torch.where(tokens[:, :-1] == IGNORED, PADDING, tokens[:, :-1])
        states = torch.cat([self._soft_tokens(vectors), self._embedding(read)], dim=1)
        logits = self.lm(inputs_embeds=states, use_cache=False).logits[:, self.config.num_soft_tokens - 1 :].float()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=IGNORED, reduction="none").view(
            tokens.shape
        )

    def _soft_tokens(self, vectors: Tensor) -> Tensor:
        prefix = self.prefix((vectors - self.mean) * self.scale).unflatten(-1, (self.config.num_soft_tokens, -1))
        return prefix.to(self._embedding.weight.dtype)
