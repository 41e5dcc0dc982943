"""Progressive training: growing subsets of whole articles, one phase each, then everything.

The articles are drawn once in an order that the seed decides, and each subset contains the smaller ones.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option
from lvm_pipeline.training.trial import Trial


@dataclass(frozen=True, kw_only=True)
class ProgressiveOptions:
    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = strategy_option(
        (1000, 5000, 10000), "Concepts of the growing subsets, in whole articles; a last phase sees all."
    )
    phase_epochs: Annotated[int, Field(ge=1)] = strategy_option(2, "Epochs of each phase but the last.")


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: ProgressiveOptions) -> Staging:
    """Put a phase for each size before the last phase.

    Raises:
        LvmError: If the train split has fewer concepts than the first size.
    """
    whole = staging.phases[-1]
    articles = data.articles_of(whole.spans.first_rows)
    order, ends = _drawn_articles(np.unique(articles), data, seed=config.seed)
    total = int(ends[-1])
    sizes = [size for size in options.sizes if size < total]
    if not sizes:
        raise LvmError(
            f"The strategy progressive starts with {options.sizes[0]:,} concepts, but the train split has {total:,}; "
            "load more articles, or set strategy_options.sizes to smaller sizes."
        )
    phases = []
    for size in sizes:
        chosen = order[: np.searchsorted(ends, size) + 1]
        spans = whole.spans.take(np.flatnonzero(np.isin(articles, chosen)))
        name = f"{int(ends[len(chosen) - 1])} concepts"
        phases.append(replace(whole, name=name, spans=spans, epochs=options.phase_epochs))
    note = f"Phases of {', '.join(phase.name for phase in phases)}, then all {total}"
    left_out = [size for size in options.sizes if size >= total]
    note += f"; left out, since the train split is no larger: {', '.join(map(str, left_out))}." if left_out else "."
    return replace(staging, phases=(*staging.phases[:-1], *phases, whole), notes={**staging.notes, STRATEGY.name: note})


def _drawn_articles(
    articles: NDArray[np.int64], data: TrainingData, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the articles in the order in which they join, and the number of concepts after each."""
    order = np.random.default_rng([seed, len(articles)]).permutation(articles)
    return order, np.cumsum(data.articles.lengths[order])


def refused(trial: Trial, options: ProgressiveOptions) -> str | None:
    if list(options.sizes) != sorted(set(options.sizes)):
        return f"sizes must grow, got {list(options.sizes)}"
    return None


STRATEGY = Strategy(
    name="progressive",
    summary="Growing subsets of whole articles (1K, 5K, 10K concepts), then the whole train split",
    affects="phases",
    stage=stage,
    options=ProgressiveOptions,
    refused=refused,
)
