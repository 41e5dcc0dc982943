"""Can the true next concept be found among many by its predicted vector?

The candidates are the concepts of the scored split: the pool. For each target some of them are excluded. The rule is
named beside every score, since scores under different rules cannot be compared:

- `context_rows`: the T concepts right before the target, which is the whole context of a window;
- `earlier_rows_of_article`: every earlier concept of the target's article, which is the whole context of a model that
  reads articles.

Candidates are ranked by cosine. Ties count against the prediction: its rank is the worst among equals, so that a
prediction that says nothing (all cosines equal) comes last and not first. Where there are many targets, a sample of
them is ranked (`Targets.ranked`).

Shapes: S = targets, R = targets that are ranked, P = candidates in the pool, B = targets in a block, D = vector width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.findings import MAX_LISTED, Finding, invariant
from lvm_pipeline.measures.comparing import compared
from lvm_pipeline.measures.metrics import Values
from lvm_pipeline.measures.targets import Contexts, Targets
from lvm_pipeline.source.encoders.encoder import unit_length

Exclusion = Literal["context_rows", "earlier_rows_of_article"]
CONTEXT_ROWS: Exclusion = "context_rows"
EARLIER_ROWS: Exclusion = "earlier_rows_of_article"
EXCLUSIONS: tuple[Exclusion, ...] = (CONTEXT_ROWS, EARLIER_ROWS)
Ranks = dict[Exclusion, NDArray[np.int64]]  # under each rule

CANDIDATES_IN_A_BLOCK = 4096
TIE_TOLERANCE = 1e-6  # of a float32 cosine; equal vectors differ by less when their products are summed in other orders


def primary_exclusion(targets: Targets) -> Exclusion:
    """Return the rule that excludes exactly the context of the model."""
    return EARLIER_ROWS if targets.context_mode == "articles" else CONTEXT_ROWS


def first_excluded_rows(contexts: Contexts, exclusion: Exclusion) -> NDArray[np.int64]:
    """Return the first row that a rule excludes from each target's pool; the last one is right before the target."""
    return {CONTEXT_ROWS: contexts.window_rows, EARLIER_ROWS: contexts.article_first_rows}[exclusion]


def target_ranks(
    predictions: Values, contexts: Contexts, targets: Targets, *, penalties: Values | None = None
) -> Ranks:
    """Rank each target among the candidates of its prediction (B, D), from 1, under each rule, (B,).

    `contexts` are some of the scored targets; `penalties` (P,) are subtracted from the cosines of the candidates.

    Raises:
        ValueError: If a prediction is not finite, or a target is not in the pool.
    """
    return ranks_with_each(predictions, contexts, targets, [penalties])[0]


def ranks_with_each(
    predictions: Values, contexts: Contexts, targets: Targets, penalties: Sequence[Values | None]
) -> list[Ranks]:
    """Return `target_ranks` with each of the penalties, from one product of predictions and pool.

    Raises:
        ValueError: If a prediction is not finite, or a target is not in the pool.
    """
    if not np.isfinite(predictions).all():
        raise ValueError("a prediction is not finite and cannot be ranked")
    if not np.isin(contexts.target_rows, targets.pool_rows).all():
        raise ValueError("a target is not among the candidates")
    directions = unit_length(predictions)
    own = np.einsum("bd,bd->b", directions, unit_length(targets.vectors[contexts.target_rows])) - TIE_TOLERANCE
    columns = np.searchsorted(targets.pool_rows, contexts.target_rows)
    least = [own if each is None else own - each[columns] for each in penalties]
    excluded: dict[Exclusion, tuple[NDArray[np.int64], NDArray[np.int64]]] = {
        rule: _excluded_columns(contexts, rule, targets.pool_rows) for rule in EXCLUSIONS
    }
    found: list[Ranks] = [{rule: np.zeros(len(contexts), np.int64) for rule in EXCLUSIONS} for _ in penalties]
    thresholds = list(zip(least, penalties, strict=True))
    for block in compared(
        directions, targets.pool_directions, targets.pool_leading, thresholds, block=CANDIDATES_IN_A_BLOCK
    ):
        inside: dict[Exclusion, list[NDArray[np.int64]]] = {
            rule: [np.searchsorted(block.candidates, each[block.lines]) for each in ends]
            for rule, ends in excluded.items()
        }
        for ranks, is_ahead in zip(found, block.reaches, strict=True):
            num_ahead = is_ahead.view(np.uint8).sum(axis=1, dtype=np.int32)
            for rule, (begin, end) in inside.items():
                ranks[rule][block.lines] += num_ahead - _num_between(is_ahead, begin, end)
    # rank 1 at least: rounding can leave out the target itself
    return [{rule: np.maximum(rank, 1) for rule, rank in ranks.items()} for ranks in found]


def num_candidates(targets: Targets, exclusion: Exclusion) -> NDArray[np.int64]:
    """Return how many candidates each ranked target has left under a rule, itself included, shape (R,)."""
    begin, end = _excluded_columns(targets.ranked, exclusion, targets.pool_rows)
    return len(targets.pool_rows) - (end - begin)


def _excluded_columns(
    contexts: Contexts, exclusion: Exclusion, pool_rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    begin = np.searchsorted(pool_rows, first_excluded_rows(contexts, exclusion))
    return begin, np.searchsorted(pool_rows, contexts.target_rows)


def _num_between(
    is_true: NDArray[np.bool_], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64] | int:
    """Count the true values of each line from column `begin` to before `end`, each of shape (B,)."""
    is_some = end > begin
    if not is_some.any():
        return 0
    first, last = int(begin[is_some].min()), int(end[is_some].max())
    sums = np.zeros((len(is_true), last - first + 1), np.int64)
    np.cumsum(is_true[:, first:last], axis=1, out=sums[:, 1:])
    lines = np.arange(len(is_true))
    return sums[lines, np.clip(end, first, last) - first] - sums[lines, np.clip(begin, first, last) - first]


@dataclass(frozen=True, kw_only=True)
class RetrievalScores:
    """Recall at k, mean reciprocal rank and median rank over the ranked targets."""

    r_at_1: float
    r_at_5: float
    r_at_10: float
    mrr: float
    median_rank: float


@dataclass(frozen=True, kw_only=True)
class Chance(RetrievalScores):
    """What random ranking scores among the candidates of one rule, and how many candidates a target has on average."""

    mean_candidates: float


def retrieval_scores(ranks: NDArray[np.int64]) -> RetrievalScores:
    """Summarise ranks, shape (R,)."""
    return RetrievalScores(
        r_at_1=float((ranks <= 1).mean()),
        r_at_5=float((ranks <= 5).mean()),
        r_at_10=float((ranks <= 10).mean()),
        mrr=float((1 / ranks).mean()),
        median_rank=float(np.median(ranks)),
    )


def chance_scores(candidates: NDArray[np.int64]) -> Chance:
    """Return the expected scores of a random ranking, given the number of candidates of each target, shape (R,)."""
    harmonic = np.cumsum(1 / np.arange(1, candidates.max() + 1))
    return Chance(
        r_at_1=float(np.minimum(1, 1 / candidates).mean()),
        r_at_5=float(np.minimum(1, 5 / candidates).mean()),
        r_at_10=float(np.minimum(1, 10 / candidates).mean()),
        mrr=float((harmonic[candidates - 1] / candidates).mean()),
        median_rank=float(np.median((candidates + 1) / 2)),
        mean_candidates=float(candidates.mean()),
    )


@invariant(remedy="Do not compare these ranks. Materialise sequences and the evaluation report again.")
def pool_is_declared_and_clean(targets: Targets, *, exclusion: Exclusion) -> Finding:
    """Retrieval ranks every target among all concepts of the split, each once, without its context."""
    pool_rows = targets.pool_rows
    _, counts = np.unique(pool_rows, return_counts=True)
    repeated = _rows_with_equal_vectors(targets.vectors, pool_rows)
    is_context_left = first_excluded_rows(targets.scored, exclusion) > targets.scored.first_rows
    problems = {
        "targets missing from the pool": targets.scored.target_rows[~np.isin(targets.scored.target_rows, pool_rows)],
        "rows listed twice": np.unique(pool_rows)[counts > 1],
        "rows whose vector is in the pool before": repeated,
        "targets with a context row among their candidates": targets.scored.target_rows[is_context_left],
    }
    found = {what: rows for what, rows in problems.items() if len(rows)}
    declared = f"{len(pool_rows)} concepts of the scored split, without {exclusion}"
    problem = "; ".join(f"{len(rows)} {what} ({', '.join(map(str, rows[:5]))})" for what, rows in found.items())
    return pool_is_declared_and_clean.finding(
        passed=not found,
        message=f"pool: {declared}; {problem or 'no duplicate and no context row among the candidates'}",
        observed=sum(len(rows) for rows in found.values()),
        allowed=0,
        details={
            "pool_size": len(pool_rows),
            "exclusion": exclusion,
            **{what: rows[:MAX_LISTED].tolist() for what, rows in found.items()},
        },
    )


def _rows_with_equal_vectors(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows whose vector, bit for bit, is that of an earlier row of the list."""
    chosen = np.ascontiguousarray(vectors[rows]) + np.float32(0)  # -0.0 becomes 0.0
    # few vectors begin alike, and only these are compared whole: sorting numbers is far quicker than sorting vectors
    _, codes, counts = np.unique(chosen[:, 0], return_inverse=True, return_counts=True)
    alike = np.flatnonzero(counts[codes] > 1)
    whole = chosen[alike].view(f"V{chosen.itemsize * chosen.shape[1]}").ravel()
    _, first = np.unique(whole, return_index=True)
    return rows[np.delete(alike, first)]
