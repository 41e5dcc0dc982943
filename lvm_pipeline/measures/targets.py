"""Which concepts are predicted, from which contexts, among which candidates, and what may be fitted on.

Shapes: N = concepts in the table, A = articles, S = targets, R = targets that are ranked, P = candidates in the pool,
T = context length.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.comparing import Leading, leading
from lvm_pipeline.source.encoders.encoder import unit_length

ContextMode = Literal["windows", "articles"]
Rows = NDArray[np.int64]

TARGETS_IN_A_BLOCK = 1024
MAX_RANKED_TARGETS = 16_384  # 58,000 targets would cost 5.8e12 floating-point operations for each predictor
LONGEST_WINDOW_OF_A_RIDGE = 5  # concepts; regressions on more of them would cost gigabytes


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Targets of one split, ascending, with what lies before each."""

    target_rows: Rows  # row of each target, shape (S,)
    first_rows: Rows  # first row of the context that a model reads, shape (S,); the context ends before the target
    window_rows: Rows  # first row of the T concepts right before each target, shape (S,)
    article_first_rows: Rows  # first row of the article of each target, shape (S,)
    articles: Rows  # index of the article of each target, shape (S,)

    def __len__(self) -> int:
        return len(self.target_rows)

    def part(self, chosen: slice | NDArray[np.bool_] | Rows) -> "Contexts":
        return Contexts(
            target_rows=self.target_rows[chosen],
            first_rows=self.first_rows[chosen],
            window_rows=self.window_rows[chosen],
            article_first_rows=self.article_first_rows[chosen],
            articles=self.articles[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Everything that a score depends on except the predictions."""

    vectors: NDArray[np.float32]  # all vectors, shape (N, D), may be memory-mapped
    scored: Contexts  # the targets that are scored
    train: Contexts  # the targets that baselines are fitted on
    train_rows: Rows  # all concepts of train articles
    pool_rows: Rows  # candidates for retrieval, ascending and unique, shape (P,): all concepts of the scored split
    # `windows`, where a model reads the T concepts before its target, or `articles`, where it reads everything before
    # it
    context_mode: ContextMode
    context_length: int  # T

    @property
    def has_long_contexts(self) -> bool:
        """Whether a model may read more than the five concepts of the usual window."""
        return self.context_mode == "articles" or self.context_length > LONGEST_WINDOW_OF_A_RIDGE

    @functools.cached_property
    def ranked(self) -> Contexts:
        """The targets that are ranked among the candidates: all, or at most 16,384 of them, evenly spaced, (R,)."""
        return self.scored.part(self.ranked_indices)

    @property
    def ranked_indices(self) -> Rows:
        """Indices of the ranked targets among the scored ones, ascending, (R,)."""
        num = min(len(self.scored), MAX_RANKED_TARGETS)
        return np.arange(num) * len(self.scored) // max(1, num)

    @functools.cached_property
    def pool_directions(self) -> NDArray[np.float32]:
        """The candidates' vectors at length one, shape (P, D); computed once for all predictors."""
        return unit_length(self.vectors[self.pool_rows])

    @functools.cached_property
    def pool_leading(self) -> Leading | None:
        """The same in their leading directions; None where that does not make comparing faster."""
        return leading(self.pool_directions)

    def prepare_pool(self) -> None:
        """Compute the cached directions of the candidates before several threads read them."""
        _ = self.pool_directions, self.pool_leading

    @functools.cached_property
    def train_mean(self) -> NDArray[np.float32]:
        """The mean vector of the train articles, shape (D,)."""
        total = np.zeros(self.vectors.shape[1])
        for start in range(0, len(self.train_rows), 8192):
            total += self.vectors[self.train_rows[start : start + 8192]].sum(axis=0, dtype=np.float64)
        return (total / max(1, len(self.train_rows))).astype(np.float32)

    def pool_fingerprint(self) -> str:
        """Hash the pool: two retrieval scores can only be compared when it is equal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pool_rows, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.vectors[self.pool_rows], dtype="<f4").tobytes())
        return digest.hexdigest()


def find_targets(
    vectors: NDArray[np.float32],
    *,
    article_first_rows: Rows,
    article_splits: NDArray[np.str_],
    target_rows: Rows,
    target_splits: NDArray[np.str_],
    context_length: int,
    split: str,
    context_mode: ContextMode,
) -> Targets:
    """Describe the targets of one split of a sequence table, those of train, and the pool.

    Args:
        vectors: All vectors, shape (N, D).
        article_first_rows: First row of each article, ascending, shape (A,).
        target_rows: Target of every sequence of every split, ascending.
        context_length: T; every target has at least T rows before it in the table.

    Raises:
        LvmError: If the split holds no target, or the mode is `articles` and some target starts its article, as in the
            compatibility mode that lets windows cross articles.
    """
    lengths = np.diff(article_first_rows, append=len(vectors))
    is_chosen = np.repeat(article_splits == split, lengths)
    contexts = {}
    for name in (split, "train"):
        rows = target_rows[target_splits == name]
        if not len(rows):
            raise LvmError(f"The {name} split holds no sequence; choose another split, or split the articles again.")
        contexts[name] = _contexts(rows, article_first_rows, context_length, context_mode)
    return Targets(
        vectors=vectors,
        scored=contexts[split],
        train=contexts["train"],
        train_rows=np.flatnonzero(np.repeat(article_splits == "train", lengths)),
        pool_rows=np.union1d(np.flatnonzero(is_chosen), contexts[split].target_rows),
        context_mode=context_mode,
        context_length=context_length,
    )


def _contexts(target_rows: Rows, article_first_rows: Rows, context_length: int, context_mode: ContextMode) -> Contexts:
    articles = np.searchsorted(article_first_rows, target_rows, side="right") - 1
    first_of_article = article_first_rows[articles]
    window_rows = target_rows - context_length
    if context_mode == "articles" and (first_of_article > window_rows).any():
        raise LvmError("These sequences do not keep to whole articles (compatibility mode); use mode windows.")
    return Contexts(
        target_rows=target_rows,
        first_rows=first_of_article if context_mode == "articles" else window_rows,
        window_rows=window_rows,
        article_first_rows=first_of_article,
        articles=articles,
    )


def blocks_of(contexts: Contexts) -> Iterator[Contexts]:
    """Cut contexts into blocks of neighbours."""
    for start in range(0, len(contexts), TARGETS_IN_A_BLOCK):
        yield contexts.part(slice(start, start + TARGETS_IN_A_BLOCK))
