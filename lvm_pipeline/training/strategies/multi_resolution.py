"""Multi-resolution: the model predicts the target at several widths at once, such as 768, 384 and 192.

A lower resolution is the vector in the leading principal directions of the train rows, not centred, so that the full
width has the usual cosine. Each lower width has a head of its own on the hidden states, and a consistency term holds
it to the full prediction in the same directions. The heads stay with the model, and its report scores every width.
"""

from dataclasses import dataclass
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

TERM = "resolutions"


@dataclass(frozen=True, kw_only=True)
class ResolutionOptions:
    widths: tuple[Annotated[int, Field(ge=1)], ...] = strategy_option(
        (), "Lower widths. Empty: half and a quarter of the vector width (384 and 192 for 768)."
    )
    resolution_weight: Annotated[float, Field(gt=0)] = strategy_option(
        0.5, "Weight of the mean cosine loss at the lower widths, beside the objective."
    )
    consistency: Annotated[float, Field(ge=0)] = strategy_option(
        0.1, "Weight of the agreement with the full prediction, relative to the loss of a width."
    )


def stage(staging: Staging, config: TrainingConfig, data: TrainingData, options: ResolutionOptions) -> Staging:
    """Add the term to every phase. Raises LvmError if a width is not below that of the vectors."""
    full = data.concepts.vector_dim
    widths = lower_widths(full, options)
    if not widths or max(widths) >= full:
        raise LvmError(
            f"The strategy multi_resolution predicts at widths below that of the vectors, {full}; "
            f"strategy_options.widths asks for {', '.join(map(str, widths)) or 'none'}."
        )

    def make(sources: "TermSources") -> "TermModule":
        from lvm_pipeline.training.strategies._resolutions import ResolutionTerm

        return ResolutionTerm(sources, consistency=options.consistency)

    term = AddedTerm(name=TERM, weight=options.resolution_weight, make=make)
    listed = ", ".join(map(str, (full, *widths)))
    note = f"Predicts at the widths {listed}; the lower ones are leading principal directions of the train rows."
    return staging.with_terms([term], of=STRATEGY.name, note=note)


def lower_widths(full: int, options: ResolutionOptions) -> tuple[int, ...]:
    """Return the widths below the full one, largest first."""
    return tuple(sorted(set(options.widths), reverse=True)) or tuple(full // part for part in (2, 4) if full >= part)


def extend(model: "LatentVectorModel", options: ResolutionOptions) -> "LatentVectorModel":
    """Add a head for each lower width to the model.

    Raises:
        LvmError: If the model has no hidden states to predict from.
    """
    from lvm_pipeline.training.strategies._resolutions import MODULE, ResolutionHeads

    hidden_dim = getattr(model.config, "hidden_dim", None)
    if hidden_dim is None:
        raise LvmError(
            f"The strategy multi_resolution predicts from hidden states, and a {type(model).__name__} has none; choose "
            "another architecture."
        )
    widths = lower_widths(model.config.vector_dim, options)
    model.add_module(MODULE, ResolutionHeads(model.config.vector_dim, hidden_dim, widths))
    return model


STRATEGY = Strategy(
    name="multi_resolution",
    summary="Predict the target at several widths at once, with a head for each and a consistency term",
    affects="objective",
    stage=stage,
    options=ResolutionOptions,
    extend=extend,
)
