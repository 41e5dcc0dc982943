"""What every architecture declares and every model offers.

Shapes: B = batch, T = context in concepts, D = vector width, H = hidden width, C = condition width.

An architecture is one module in this folder with a constant `ARCHITECTURE`. Its config, presets and builder live there
and nowhere else; partitions, conformance tests, plan and command line find it by scanning the folder (`_registry`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lvm_pipeline.architectures._config import ModelConfig
from lvm_pipeline.architectures._config import config_with as config_with
from lvm_pipeline.errors import LvmError

REQUIRED_PRESETS = ("smoke", "small", "full")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named size: a config and the exact number of parameters it builds."""

    config: ModelConfig
    num_params: int


@dataclass(frozen=True, kw_only=True)
class TrainingDefaults:
    """Default batch size (approximate number of targets per optimiser step) and default peak learning rate."""

    batch_size: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class OptimiserSetting:
    """How the optimiser treats one parameter where it differs from the rest."""

    weight_decay: bool = True
    learning_rate_factor: float = 1.0


class LatentVectorModel(nn.Module, ABC):
    """A model that reads a run of concept vectors and predicts the one after each of them.

    Subclasses implement `forward`.
    """

    is_recurrent: bool = False  # whether `prefill` and `step` carry a state
    # as the architecture declares; if False, what follows a context changes its predictions: no padding
    is_causal: bool = True
    # `forward` also takes `targets` (B, T, D), and returns a `DenoisingOutput` if they are given
    learns_by_denoising: bool = False
    max_context: int | None = None  # longest context that `forward` reads, None for any; it refuses longer ones
    optimiser_settings: ClassVar[Mapping[str, OptimiserSetting]] = {}  # of a module's own parameters, by name

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, contexts: Tensor, condition: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Predict the next vector after some or all positions; training, scoring and serving all call this.

        Args:
            contexts: Concept vectors in reading order, (B, T, D).
            condition: A vector for each concept, (B, T, C), if the config has a condition.
            at: Positions to predict at, bool (B, T); None: all. Work that only other positions need is skipped.

        Returns:
            Predictions (B, T, D), or (n, D) in row-major order of `at`. The prediction at position t is for the
            concept after it and, in a causal architecture, depends only on inputs up to t.
        """

    def start_step(self, step: int) -> None:
        """Prepare for an optimiser step, counted from 1; the training loop calls this before each."""

    def fit(self, train_vectors: Tensor) -> None:
        """Set statistics that are estimated and not learned (a normaliser) from vectors of train articles, (N, D)."""

    def set_weighted_mean(self, *, decay: float, article_weight: float) -> None:
        """Start the residual head at this weighted mean; a model without the head ignores it."""

    @property
    def linear_forecast_options(self) -> Mapping[str, Any] | None:
        """Options to fit the linear forecast with, for a model that takes it; None for others."""
        return None

    def set_linear_forecast(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the arrays of a linear forecast that was fitted with `linear_forecast_options`, by name."""

    def prefill(self, contexts: Tensor, state: Any = None, condition: Tensor | None = None) -> tuple[Tensor, Any]:
        """Predict like `forward` for contexts that continue from `state`; also return the state after them.

        Raises:
            LvmError: If the architecture carries no state.
        """
        raise LvmError("This model carries no state from concept to concept; give it the whole context.")

    def step(self, vectors: Tensor, state: Any = None, condition: Tensor | None = None) -> tuple[Tensor, Any]:
        """Predict from one more concept of each context, (B, D), with its condition (B, C) if the config has one.

        `state` is what the previous step returned, None at the start; the result is the predictions (B, D) and the next
        state.
        """
        condition = None if condition is None else condition[:, None]
        predictions, state = self.prefill(vectors[:, None], state, condition)
        return predictions[:, 0], state


class DenoisingOutput(NamedTuple):
    """What the forward pass returns in training for a model that learns by denoising its targets.

    A named tuple, because the hooks of DDP and FSDP look for tensors in tuples.
    """

    draws: Tensor  # denoised targets, (draws, n, D)
    loss: Tensor  # the model's own loss, a scalar


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One kind of model and everything that the rest of the pipeline needs to know about it."""

    name: str
    summary: str
    sources: tuple[str, ...]  # paper and reference code
    config_class: type[ModelConfig]
    presets: Mapping[str, Preset]
    build_model: Callable[[Any], LatentVectorModel]
    # slow, plain twin of the fast path: `reference(model, contexts) -> predictions`
    reference: Callable[[Any, Tensor], Tensor]
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # grid of config fields that its study tries
    causal: bool = True  # if False, a prediction sees later inputs of its own context: fixed windows only
    variant_of: str | None = None  # the architecture that it is a variant of
    # default batch size and learning rate by mode, if they differ from the usual ones
    training_defaults: Mapping[str, TrainingDefaults] = field(default_factory=dict)
    gains_from_compile: bool = False  # whether torch.compile was measured to make training on windows faster
    is_baseline: bool = False  # a simple model that architectures are compared with; see `_registry`
    is_closed_form: bool = False  # weights are solved and not learned: trained without an epoch

    def __post_init__(self) -> None:
        missing = [name for name in REQUIRED_PRESETS if name not in self.presets]
        if missing:
            raise ValueError(f"architecture {self.name} lacks the presets {missing}")
        strangers = [name for name, preset in self.presets.items() if type(preset.config) is not self.config_class]
        if strangers:
            raise ValueError(
                f"architecture {self.name}: presets {strangers} do not have a {self.config_class.__name__}"
            )

    @property
    def kind(self) -> str:
        if self.is_baseline:
            return "baseline model"
        return f"variant of {self.variant_of}" if self.variant_of else "architecture"

    def build(self, config: ModelConfig) -> LatentVectorModel:
        """Build the model, its weights drawn from torch's current random state.

        Raises:
            LvmError: If the config is another architecture's.
        """
        if type(config) is not self.config_class:
            raise LvmError(f"{self.name} is built from a {self.config_class.__name__}, got a {type(config).__name__}.")
        return self.build_model(config)

    def preset(self, name: str) -> Preset:
        """Return a preset by name. Raises LvmError if there is none of that name; the message lists what exists."""
        if name not in self.presets:
            raise LvmError(f"{self.name} has no preset {name!r}; it has {', '.join(self.presets)}.")
        return self.presets[name]


def at_last_position(contexts: Tensor) -> Tensor:
    """Return the mask for `forward` that asks for one prediction per context (B, T, ...): the one after its end."""
    at = torch.zeros(contexts.shape[:2], dtype=torch.bool, device=contexts.device)
    at[:, -1] = True
    return at


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_params_of(architecture: Architecture, config: ModelConfig, *, allocates: bool = False) -> int:
    """Count a config's parameters without allocating them, or by allocating them, which is quicker where they are few.

    Drawing weights on the meta device imports torch's compiler, which takes seconds. torch's random state stays.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if allocates else "meta"):
        return count_parameters(architecture.build(config))


def declared_settings(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, OptimiserSetting]]:
    """Yield every parameter once with its full name and the setting its module declares for it.

    Raises:
        ValueError: If a module declares a setting for a name that is none of its own parameters.
    """
    for prefix, module in model.named_modules():
        declared = getattr(module, "optimiser_settings", {})
        unknown = set(declared) - {name for name, _ in module.named_parameters(recurse=False)}
        if unknown:
            raise ValueError(
                f"{prefix} declares an optimiser setting for {', '.join(sorted(unknown))}, which is no parameter of it"
            )
        for name, parameter in module.named_parameters(prefix=prefix, recurse=False):
            yield name, parameter, declared.get(name.removeprefix(f"{prefix}."), OptimiserSetting())
