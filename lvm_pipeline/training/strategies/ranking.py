"""Ranking: a second output of the model, trained to tell the next concept from others.

The prediction keeps its objective. The ranking head reads the context and the hidden states and is trained by a softmax
over train concepts: a sample of all of them, and the other concepts of the batch's articles. Late in the training the
target is spread over the candidates near the true concept. Reports rank with this output, and so does
`lvm predict --nearest`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lvm_pipeline.errors import LvmError
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
    """What the ranking head is trained on."""

    ranking_weight: Annotated[float, Field(gt=0)] = strategy_option(1.0, "Weight of the term beside the objective.")
    ranking_trains_mixers: bool = strategy_option(
        False, "Let the term train the mixers too; else only the ranking head learns from it."
    )
    candidates: Annotated[int, Field(ge=2)] = strategy_option(
        4096, "Train concepts drawn at each step, besides those of the batch's articles."
    )
    context_negatives: bool = strategy_option(
        False, "Rank against the concepts read so far too, which reports leave out of the pool."
    )
    soft_fraction: Annotated[float, Field(ge=0, le=1)] = strategy_option(
        0.25, "Last fraction of the steps in which the target is spread over near candidates."
    )
    soft_weight: Annotated[float, Field(ge=0, lt=1)] = strategy_option(0.1, "Part of the target that is spread.")


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: RankingOptions) -> Staging:
    """Add the term to every phase."""
    size = len(data.train_rows())
    drawn = min(options.candidates, size)
    steps = sum(
        phase.epochs * max(1, round(phase.num_counted(phase.spans).sum() / phase.batch_size))
        for phase in staging.phases
    )

    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._ranking import RankingTerm

        return RankingTerm(
            sources, options=options, num_drawn=drawn, first_soft_step=int(steps * (1 - options.soft_fraction))
        )

    term = AddedTerm(name=TERM, weight=options.ranking_weight, make=make)
    context = "and also of the context" if options.context_negatives else "which the context is left out of"
    note = (
        f"A ranking output beside the prediction, trained on {drawn} of {size} train concepts at each step and the "
        f"concepts of the batch's articles, {context}."
    )
    phases = tuple(replace(phase, terms=(*phase.terms, term)) for phase in staging.phases)
    return replace(staging, phases=phases, notes={**staging.notes, STRATEGY.name: note})


def extend(model: "LatentVectorModel", options: RankingOptions) -> "LatentVectorModel":
    """Add the ranking head to the model.

    Raises:
        LvmError: If the model has no hidden states.
    """
    from lvm_pipeline.architectures._ranking_head import MODULE, RankingHead

    hidden_dim = getattr(model.config, "hidden_dim", None)
    if hidden_dim is None:
        raise LvmError(
            f"The strategy ranking reads hidden states, and a {type(model).__name__} has none; choose another "
            "architecture."
        )
    model.add_module(MODULE, RankingHead(model.config.vector_dim, hidden_dim))
    return model


STRATEGY = Strategy(
    name="ranking",
    summary="Train a second output that ranks candidates, for retrieval and --nearest; the prediction keeps its own",
    affects="objective",
    stage=stage,
    options=RankingOptions,
    extend=extend,
)
