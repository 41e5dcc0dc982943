"""Contrastive pre-training: a first phase in which a prediction has to find its target among negatives.

Negatives are concepts of the target's own article, half of them from its context, and the nearest concepts of other
train articles. If the concept table has soft and hard negatives (CPESH) and the encoder of its space is available,
these are encoded and added.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lvm_pipeline.concepts.content_kinds import NEGATIVES
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.phases import AddedTerm
from lvm_pipeline.training.strategies._contract import Staging, Strategy, strategy_option

if TYPE_CHECKING:
    from lvm_pipeline.training.strategies._negatives import WrittenNegatives
    from lvm_pipeline.training.terms import TermModule, TermSources

MAX_TEXTS = 50_000  # negatives that are encoded


@dataclass(frozen=True, kw_only=True)
class ContrastiveOptions:
    contrastive_epochs: Annotated[int, Field(ge=1)] = strategy_option(2, "Epochs of the contrastive phase.")
    contrastive_objective: str = strategy_option(
        "0 cosine", "Objective of the phase beside the contrastive term; `0 cosine`: the contrastive term alone."
    )
    num_own: Annotated[int, Field(ge=2)] = strategy_option(
        16, "Negatives from the target's own article, and as many from the table."
    )
    num_hard: Annotated[int, Field(ge=1)] = strategy_option(
        64, "Negatives from other train articles: the nearest to the target among about 2,000 drawn."
    )
    temperature: Annotated[float, Field(gt=0)] = strategy_option(0.1, "Temperature of the contrastive term.")


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: ContrastiveOptions) -> Staging:
    negatives, source = written_negatives(data, seed=config.seed)

    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._negatives import ContrastiveTerm

        return ContrastiveTerm(
            sources,
            negatives=negatives,
            num_own=options.num_own,
            num_hard=options.num_hard,
            temperature=options.temperature,
        )

    first = replace(
        staging.phases[-1],
        name="contrastive",
        counted=None,
        epochs=options.contrastive_epochs,
        objective=options.contrastive_objective,
        terms=(AddedTerm(name="contrastive", weight=1.0, make=make),),
    )
    note = (
        f"{source}; {options.num_own} concepts of the same article and {options.num_hard} hard ones of other articles."
    )
    return replace(staging, phases=(first, *staging.phases), notes={**staging.notes, STRATEGY.name: note})


def written_negatives(data: TrainingData, *, seed: int) -> "tuple[WrittenNegatives | None, str]":
    """Return the encoded negatives of the table's train concepts, and a sentence about which negatives are used."""
    from lvm_pipeline.source.encoders.registry import encoder_of_space
    from lvm_pipeline.training.strategies._negatives import encode_negatives

    substitute = "so the negatives are other concepts only"
    space_id, encoders_dir = data.concepts.space_id, data.encoders_dir
    if not data.has_written_negatives():
        return None, f"The table names no negatives, {substitute}"
    encoder = None if encoders_dir is None else encoder_of_space(space_id, encoders_dir=encoders_dir)
    if encoder is None:
        return (
            None,
            f"The encoder of the space {space_id} is not available to encode the table's negatives, {substitute}",
        )
    found = encode_negatives(data, encoder, data.train_rows(), limit=MAX_TEXTS, seed=seed)
    if found is None:
        return None, f"The table names no negatives for train concepts, {substitute}"
    return found, f"{len(found.vectors)} negatives of the table, encoded in the space {space_id}"


STRATEGY = Strategy(
    name="contrastive",
    summary="A first phase in which a prediction has to find its target among negatives",
    affects="first phase",
    stage=stage,
    options=ContrastiveOptions,
    reads_content=lambda options: (NEGATIVES,),
)
