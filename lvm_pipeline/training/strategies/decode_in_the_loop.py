"""Decoding in the loop: the prediction must also lead back to the true concept, not only lie near its vector.

The text of the true concept would be scored by a frozen decoder from vectors to text. Without one, the decoder is the
nearest concept of a bank: the term is the cross-entropy of the true next concept in a softmax over the bank of train
concepts, of which every step draws a sample. The note of the strategy says so.

Shapes: n = positions that count, K = bank concepts drawn, D = vector width.
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
    from lvm_pipeline.training.terms import TermModule, TermSources

TERM = "decoded"


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How the prediction is decoded in training."""

    decode_weight: Annotated[float, Field(gt=0)] = strategy_option(0.1, "Weight of the term beside the objective.")
    bank_sample: Annotated[int, Field(ge=2)] = strategy_option(
        4096, "Train concepts drawn from the bank at each step; all of them if there are fewer."
    )
    decode_temperature: Annotated[float, Field(gt=0)] = strategy_option(
        0.1, "Cosines are divided by this before the softmax."
    )


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: DecodeOptions) -> Staging:
    """Add the term to every phase.

    Raises:
        LvmError: If the train split has too few concepts for a bank.
    """
    size = len(data.train_rows())
    if size < 3:
        raise LvmError(
            f"The strategy decode_in_the_loop decodes with a bank of train concepts, and the train split has {size}; "
            "load more articles."
        )
    drawn = min(options.bank_sample, size)

    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._bank import BankCrossEntropy

        return BankCrossEntropy(sources, num_drawn=drawn, temperature=options.decode_temperature)

    term = AddedTerm(name=TERM, weight=options.decode_weight, make=make)
    note = (
        f"No text decoder is used; in its place is the nearest concept of a bank: cross-entropy of the true next "
        f"concept among itself and {drawn} of {size} train concepts, drawn at each step."
    )
    phases = tuple(replace(phase, terms=(*phase.terms, term)) for phase in staging.phases)
    return replace(staging, phases=phases, notes={**staging.notes, STRATEGY.name: note})


STRATEGY = Strategy(
    name="decode_in_the_loop",
    summary="Add the cross-entropy of the true concept when the prediction is decoded (by a bank of train concepts)",
    affects="objective",
    stage=stage,
    options=DecodeOptions,
)
