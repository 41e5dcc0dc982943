"""Auxiliary targets: additional heads predict later concepts and the mean of the next few, from the same trunk.

The heads are not part of the trained model.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.phases import AddedTerm
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option
from lvm_pipeline.training.trial import Trial

if TYPE_CHECKING:
    from lvm_pipeline.training.terms import TermModule, TermSources


@dataclass(frozen=True, kw_only=True)
class AuxiliaryOptions:
    offsets: tuple[Annotated[int, Field(ge=2, le=16)], ...] = strategy_option(
        (2, 3, 4), "Offsets that additional heads predict; 1 would be the next concept."
    )
    mean_of_next: Annotated[int, Field(ge=0, le=16)] = strategy_option(
        3, "Number of next concepts whose mean an additional head predicts; 0: none."
    )
    auxiliary_weight: Annotated[float, Field(gt=0)] = strategy_option(0.3, "Weight of the heads' mean loss.")


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: AuxiliaryOptions) -> Staging:
    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._future_targets import FutureTargets

        return FutureTargets(sources, offsets=options.offsets, mean_of_next=options.mean_of_next)

    term = AddedTerm(name="auxiliary_targets", weight=options.auxiliary_weight, make=make)
    listed = [f"offset {offset}" for offset in options.offsets]
    listed += [f"the mean of the next {options.mean_of_next}"] if options.mean_of_next else []
    note = f"Additional heads for {', '.join(listed)}, where the article is long enough."
    return staging.with_terms([term], of=STRATEGY.name, note=note)


def refused(trial: Trial, options: AuxiliaryOptions) -> str | None:
    return None if options.offsets or options.mean_of_next else "neither offsets nor mean_of_next names a target"


STRATEGY = Strategy(
    name="auxiliary_targets",
    summary="Additional heads predict the concepts after the next one and the mean of the next few",
    affects="objective",
    stage=stage,
    options=AuxiliaryOptions,
    refused=refused,
)
