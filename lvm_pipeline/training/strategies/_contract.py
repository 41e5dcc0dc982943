"""What a strategy declares, and how one or several of them stage a training.

A strategy is a function that takes the `Staging` of a training and returns it changed. Strategies are joined with a
plus sign (`strategy: progressive+tmd`) and applied in the order of `AFFECTS`, whatever order they are named in.
Modules of strategies import torch inside functions only, because a trial is checked where torch is not needed.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig, problems_in_words
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.phases import AddedTerm, Phase
from lvm_pipeline.training.trial import Trial

if TYPE_CHECKING:
    from lvm_pipeline.architectures._contract import LatentVectorModel

Affects = Literal["nothing", "spans", "phases", "first phase", "model", "objective"]
AFFECTS: tuple[Affects, ...] = get_args(Affects)
EXCLUSIVE = ("spans", "phases", "first phase")  # at most one strategy of a trial may affect each of these

Measure = Callable[[NDArray[np.float32], NDArray[np.float32]], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a strategy that has none."""


def strategy_option(default: Any, meaning: str) -> Any:
    """Declare an option of a strategy with its default and its meaning, which the docs show."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Staging:
    """How a training is staged. It starts as one phase over the train split, and each strategy returns it changed."""

    phases: tuple[Phase, ...]  # the phases of the training, in order
    # fields of the model's config that the strategies set, by name
    model: Mapping[str, Any] = field(default_factory=dict)
    # additional validation metrics, each a function of predictions (S, D) and targets (S, D)
    measures: tuple[Measure, ...] = ()
    # one sentence for each strategy about what it did with these data: what it used and what it used instead of
    # something that is missing. Recorded with the model, in MLflow and in the report
    notes: Mapping[str, str] = field(default_factory=dict)
    # whether the model reads something of its targets, so that it can be studied but never promoted
    is_oracle: bool = False

    @property
    def terms(self) -> dict[str, AddedTerm]:
        """Terms that phases add to their objective, each once."""
        return {term.name: term for phase in self.phases for term in phase.terms}

    def with_terms(self, terms: Sequence[AddedTerm], *, of: str, note: str) -> "Staging":
        """Return the staging with terms added to every phase, and a note of the strategy that adds them."""
        phases = tuple(replace(phase, terms=(*phase.terms, *terms)) for phase in self.phases)
        return replace(self, phases=phases, notes={**self.notes, of: note})


def _nothing_refused(trial: Trial, options: Any) -> str | None:
    return None


def _reads_vectors_only(options: Any) -> Collection[str]:
    return ()


def _nothing_but_tables(data: TrainingData, options: Any) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Strategy:
    name: str  # its name, which is its module's
    summary: str  # what it does, one sentence
    affects: Affects  # what it changes; see `AFFECTS` and `EXCLUSIVE`
    # returns the staging changed, for a settled config, the data and the strategy's options. It raises LvmError with
    # what is missing if the strategy cannot work on the data
    stage: Callable[[Staging, TrainingConfig, TrainingData, Any], Staging]
    # frozen dataclass of its options, each with a default, declared with `strategy_option`; limits are written as
    # pydantic's `Annotated[int, Field(ge=1)]`. Names are unique among strategies that can be combined
    options: type = NoOptions
    # returns why a trial contradicts the strategy or its options; None if it does not
    refused: Callable[[Trial, Any], str | None] = _nothing_refused
    # returns a built model with modules of the strategy added, or another model around it. Called when a training
    # builds its model and whenever a trained model is loaded, before the weights are
    extend: "Callable[[LatentVectorModel, Any], LatentVectorModel] | None" = None
    # which kinds of `concepts.content_kinds.CONTENT` it reads with these options
    reads_content: Callable[[Any], Collection[str]] = _reads_vectors_only
    # returns fingerprints of what it reads with these options beside the tables, such as a trained text decoder, by
    # name; what is missing is left out. A trial is trained again when one has changed
    fingerprints: Callable[[TrainingData, Any], Mapping[str, str]] = _nothing_but_tables
    # returns the condition (N, C) that a model of this strategy reads, where it is not the TMD vectors
    condition: Callable[[TrainingData, Any], NDArray[np.float32]] | None = None

    def options_from(self, values: Mapping[str, Any]) -> Any:
        """Return the options with some of them replaced; every name must be that of an option.

        Raises:
            LvmError: If a value is of another type or out of its limits.
        """
        try:
            return _adapter(self.options).validate_python(dict(values))
        except ValidationError as error:
            problems = problems_in_words(error)
            raise LvmError(f"The options of the strategy {self.name} cannot be used: {problems}.") from None


@functools.cache
def _adapter(options: type) -> TypeAdapter[Any]:
    return TypeAdapter(options)
