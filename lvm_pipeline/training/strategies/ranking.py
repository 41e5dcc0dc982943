"""Ranking: a second output of the model, trained to tell the next concept from others.

The prediction keeps its objective, and the ranking head learns nothing but the order of candidates: among train
concepts, a sample of all of them and those of the batch's articles, it lowers the rank of the true next concept.
Reports rank with this output, and so does `lvm predict --nearest`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.phases import AddedTerm
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option

if TYPE_CHECKING:
    from lvm_pipeline.architectures._contract import LatentVectorModel
    from lvm_pipeline.training.terms import TermModule, TermSources

TERM = "ranking"


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    ranking_weight: Annotated[float, Field(gt=0)] = strategy_option(1.0, "Weight of the term beside the objective.")
    candidates: Annotated[int, Field(ge=2)] = strategy_option(
        4096, "Train concepts drawn at each step, besides those of the batch's articles."
    )
    ranked_candidates: Annotated[int, Field(ge=1)] = strategy_option(
        100, "Nearest of them that the true concept is ranked against."
    )
    ranked_targets: Annotated[int, Field(ge=1)] = strategy_option(
        256, "Targets drawn from each batch; more cost time and memory."
    )
    ranking_temperature: Annotated[float, Field(gt=0)] = strategy_option(
        0.02, "Difference in score that counts as clearly ahead; smaller is nearer to the true rank."
    )
    context_negatives: bool = strategy_option(
        False, "Rank against the concepts read so far too, which reports leave out of the pool."
    )


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: RankingOptions) -> Staging:
    size = len(data.train_rows())
    drawn = min(options.candidates, size)

    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._ranking import RankingTerm

        return RankingTerm(sources, options=options, num_drawn=drawn)

    term = AddedTerm(name=TERM, weight=options.ranking_weight, make=make)
    context = "and also of the context" if options.context_negatives else "which the context is left out of"
    note = (
        f"A ranking output beside the prediction, trained on {drawn} of {size} train concepts at each step and the "
        f"concepts of the batch's articles, {context}."
    )
    return staging.with_terms([term], of=STRATEGY.name, note=note)


def extend(model: "LatentVectorModel", options: RankingOptions) -> "LatentVectorModel":
    from lvm_pipeline.architectures._ranking_head import MODULE, RankingHead

    model.add_module(MODULE, RankingHead(model.config.vector_dim))
    return model


STRATEGY = Strategy(
    name="ranking",
    summary="Train a second output that ranks candidates (retrieval, --nearest); predictions are trained as usual",
    affects="objective",
    stage=stage,
    options=RankingOptions,
    extend=extend,
)
