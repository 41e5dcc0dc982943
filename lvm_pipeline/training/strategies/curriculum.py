"""Curriculum: targets close to their context first, distant ones later (Bengio et al., 2009).

The easiness of a target is its cosine to the mean of the last T concepts of its context, where T is the context length.
Quantiles of that cosine on the train split bound the phases.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lvm_pipeline.errors import LvmError
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.weighted_means import decayed_means
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import Spans, TrainingData
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option

ROWS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class CurriculumOptions:
    quantiles: Annotated[int, Field(ge=2)] = strategy_option(4, "Number of parts, from easy to hard; one phase each.")
    is_cumulative: bool = strategy_option(True, "Each phase also sees the easier parts.")
    phase_epochs: Annotated[int, Field(ge=1)] = strategy_option(2, "Epochs of each phase but the last.")


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: CurriculumOptions) -> Staging:
    """Divide the last phase into one phase for each part.

    Raises:
        LvmError: If the train split has fewer different targets than parts.
    """
    whole = staging.phases[-1]
    rows, easiness = context_target_cosines(whole.spans, data)
    bounds = np.quantile(easiness, np.linspace(1, 0, options.quantiles + 1))  # descending: easy first
    if len(rows) < options.quantiles or (np.diff(bounds) == 0).any():
        raise LvmError(
            f"The strategy curriculum cannot divide {len(rows):,} train targets into {options.quantiles} parts by "
            "their cosine to the context; load more articles, or set strategy_options.quantiles to fewer parts."
        )
    phases = []
    for number in range(options.quantiles):
        upper = np.inf if options.is_cumulative or number == 0 else bounds[number]
        lower = -np.inf if number + 1 == options.quantiles else bounds[number + 1]
        counted = np.zeros(len(data.vectors), bool)
        counted[rows[(easiness >= lower) & (easiness < upper)]] = True
        epochs = whole.epochs if number + 1 == options.quantiles else options.phase_epochs
        phases.append(replace(whole, name=f"part {number + 1}", counted=counted, epochs=epochs))
    listed = ", ".join(f"{bound:.3f}" for bound in bounds[1:-1])
    what = "each phase also sees the easier parts" if options.is_cumulative else "each phase sees its part alone"
    note = f"{len(rows)} train targets in {options.quantiles} parts, bounded by cosines of {listed}; {what}."
    return replace(staging, phases=(*staging.phases[:-1], *phases), notes={**staging.notes, STRATEGY.name: note})


def context_target_cosines(spans: Spans, data: TrainingData) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of all targets of the spans, ascending and each once, and their cosines to their contexts."""
    firsts = np.repeat(spans.first_rows, spans.num_targets)
    rows, index = np.unique(spans.target_rows(), return_index=True)
    firsts = np.maximum(firsts[index], rows - data.context_length)
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(rows), ROWS_AT_ONCE)]
    found = [
        cosines(decayed_means(data.vectors, firsts[part], rows[part], decay=1.0), np.asarray(data.vectors[rows[part]]))
        for part in parts
    ]
    return rows, np.concatenate(found)


STRATEGY = Strategy(
    name="curriculum",
    summary="Targets in phases from easy to hard, by quantiles of the cosine between context and target",
    affects="phases",
    stage=stage,
    options=CurriculumOptions,
)
