"""Bagging: train on a bootstrap of the train articles (Breiman, 1996), drawn by the seed.

Members of an ensemble that differ in their seed then differ in their articles too.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option


@dataclass(frozen=True, kw_only=True)
class BaggingOptions:
    bag_fraction: Annotated[float, Field(gt=0, le=10)] = strategy_option(
        1.0, "Articles drawn with replacement, as a fraction of the train articles."
    )


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: BaggingOptions) -> Staging:
    """Replace the spans of the phase with those of the drawn articles, repeated as often as they were drawn."""
    (phase,) = staging.phases
    articles = data.articles_of(phase.spans.first_rows)
    known, of_span = np.unique(articles, return_inverse=True)
    num_drawn = max(1, round(options.bag_fraction * len(known)))
    draws = np.random.default_rng([config.seed, len(known)]).integers(0, len(known), num_drawn)
    times = np.bincount(draws, minlength=len(known))
    spans = phase.spans.take(np.repeat(np.arange(len(phase.spans)), times[of_span]))
    note = f"A bootstrap of {num_drawn} draws from {len(known)} train articles; {(times == 0).sum()} were not drawn."
    return replace(staging, phases=(replace(phase, spans=spans),), notes={**staging.notes, STRATEGY.name: note})


STRATEGY = Strategy(
    name="bagging",
    summary="A bootstrap of the train articles, drawn by the seed; makes members of an ensemble differ",
    affects="spans",
    stage=stage,
    options=BaggingOptions,
)
