"""Terms that a strategy adds to the objective of a phase. They read the whole batch and may learn weights of their own.

Shapes: B = batch, T = context, D = vector width, H = hidden width, n = positions that count.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lvm_pipeline.architectures._contract import LatentVectorModel
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.objectives import Objective
from lvm_pipeline.training.phases import AddedTerm


@dataclass(frozen=True, kw_only=True)
class TermSources:
    model: LatentVectorModel  # the model that is trained, on its device
    vectors: Tensor  # all vectors on that device, (N, D)
    data: TrainingData  # what the training reads


class TermModule(nn.Module, ABC):
    """One term. Its value is about 1 for an uninformed prediction, like that of the terms in `objectives`.

    Its parameters are trained with the model and kept in the checkpoint; they are not part of the trained model. A
    module that needs randomness draws it from torch's random state, which the checkpoint keeps.
    """

    reads_states: bool = False  # whether it reads the hidden states behind the predictions

    @abstractmethod
    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        """Return the value of the term, a scalar.

        `predictions` are those where the batch has targets, (n, D), in row-major order; `states` the outputs of the
        mixers at the same positions, (n, H), None for a term that does not read them.
        """


@dataclass
class AddedTerms:
    """The added terms of a training. Their values at the latest step stay on the device."""

    modules: nn.ModuleDict
    states: list[Tensor] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.modules.parameters())

    def around(self, objective: Objective, terms: Iterable[AddedTerm]) -> Objective:
        self.values = {}
        return lambda predictions, batch: self._sum(objective(predictions, batch), predictions, batch, tuple(terms))

    def _sum(self, loss: Tensor, predictions: Tensor, batch: Batch, terms: tuple[AddedTerm, ...]) -> Tensor:
        for term in terms:
            module = self.modules[term.name]
            assert isinstance(module, TermModule)
            value = module(predictions, batch, self._states_at(batch) if module.reads_states else None)
            self.values[term.name] = value.detach()
            loss = loss + term.weight * value
        return loss

    def _states_at(self, batch: Batch) -> Tensor:
        states = self.states[-1]
        return states if states.ndim == 2 else states[batch.is_target]

    def keep_states(self, module: nn.Module, inputs: object, output: object) -> None:
        """Keep what the mixers return; a forward hook of theirs."""
        if module.training:
            assert isinstance(output, Tensor)
            self.states[:] = [output]


def added_terms(terms: Mapping[str, AddedTerm], sources: TermSources) -> AddedTerms:
    """Build the modules of the added terms.

    Raises:
        LvmError: If a term reads hidden states that the model does not have.
    """
    modules = nn.ModuleDict({name: term.make(sources).to(sources.vectors.device) for name, term in terms.items()})
    added = AddedTerms(modules)
    if any(module.reads_states for module in modules.values()):
        mixers_of(sources.model).register_forward_hook(added.keep_states)
    return added


def mixers_of(model: LatentVectorModel) -> nn.Module:
    """Return the module whose outputs are the hidden states. Raises LvmError if the model has none."""
    mixers = dict(model.named_modules()).get("mixers")
    if mixers is None:
        raise LvmError(
            f"A {type(model).__name__} has no hidden states, which a term of the objective reads; choose another "
            "architecture or strategy."
        )
    return mixers
