"""A trial: one configuration, trained once with one seed. Folders, reports, MLflow runs and the champion go by its id.

This module and `config` declare every training option once: name, default, meaning, limits. The command line, the
environment, Dagster's launchpad, the parameters in MLflow and `docs/training-options.md` are derived from them. They
import neither torch nor anything of this project but its errors, so that settings and code server stay light; a trial
with a strategy is checked against what its strategy declares, which is imported then.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Mode = Literal["auto", "articles", "windows"]
Precision = Literal["auto", "float32", "bfloat16"]
SelectionMetric = Literal["cosine", "centred_cosine", "mse"]

ID_DIGITS = 8
PLAIN = "plain"  # the strategy of a single phase
STRATEGIES = "lvm_pipeline.training.strategies"  # imported by name, only for a trial that has a strategy


def parsed(value: Any) -> Any:
    """Read text as JSON where it is JSON, so that `256`, `true` and `[0.0, 0.5]` mean what they look like."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _parsed_options(values: Any) -> Any:
    values = parsed(values)
    return {name: parsed(value) for name, value in values.items()} if isinstance(values, Mapping) else values


def _plain_numbers(value: Any) -> Any:
    """Write equal numbers alike (1.0 as 1), tuples as lists, mappings by key."""
    if isinstance(value, Mapping):
        return {str(name): _plain_numbers(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def names_of_strategies(text: str) -> list[str]:
    """Return the names in `progressive+tmd`, sorted, each once; the plain strategy counts only where it is alone."""
    names = sorted({name.strip() for name in text.split("+")} - {PLAIN})
    return names or [PLAIN]


def _joined(text: str) -> str:
    return "+".join(names_of_strategies(text))


NamedValues = Annotated[dict[str, Any], BeforeValidator(_parsed_options), AfterValidator(_plain_numbers)]


class Trial(BaseModel):
    """What is trained and how, whatever the machine. Fields that are None take the architecture's default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    architecture: str = Field(default="lstm", description="Architecture to train; see `lvm list architectures`.")
    preset: str = Field(default="small", description="Named size of the architecture: smoke, small, full, ...")
    model: NamedValues = Field(
        default_factory=dict,
        description="Fields of the preset's config to replace, such as hidden_dim, num_layers, dropout.",
    )
    strategy: Annotated[str, AfterValidator(_joined)] = Field(
        default=PLAIN,
        description="How the training is staged; see `lvm list strategies`. Join several with +: `progressive+tmd`.",
    )
    strategy_options: NamedValues = Field(default_factory=dict, description="Options of the strategies.")
    mode: Mode = Field(
        default="auto",
        description="articles: predict at every position of whole articles. windows: predict one target from a fixed "
        "context. auto: articles where the architecture is causal and no window crosses an article, else windows.",
    )
    objective: str = Field(
        default="cosine", description="Loss: a weighted sum of cosine, mse and infonce, such as `cosine + 0.1 mse`."
    )
    epochs: int = Field(
        default=8,
        ge=1,
        description="Maximum number of passes over the train split. The strategies contrastive, curriculum and "
        "progressive add the epochs of their own phases.",
    )
    patience: int = Field(default=4, ge=1, description="Stop after this many epochs without a better validation score.")
    selection_metric: SelectionMetric = Field(
        default="cosine", description="Validation metric that selects the checkpoint and stops early."
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="Targets per optimiser step (approximate). Default: the architecture's."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="Peak learning rate. Default: the architecture's."
    )
    correction_learning_rate_factor: float = Field(
        default=1.0, gt=0, description="Learning rate of everything except the head, relative to the peak."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW weight decay of matrices.")
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Fraction of the training in which the learning rate warms up."
    )
    final_learning_rate_fraction: float = Field(
        default=0.05, ge=0, le=1, description="Final learning rate of the cosine schedule, relative to the peak."
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Maximum gradient norm.")
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay of an exponential moving average of the weights, such as 0.999; the averaged weights are "
        "validated too and saved where they score better. 0: off.",
    )
    precision: Precision = Field(
        default="auto",
        description="Precision of the matrix products in training. auto: bfloat16 on a GPU or a CPU with bfloat16 "
        "instructions, else float32. Validation always runs in float32.",
    )
    seed: int = Field(default=0, ge=0, lt=10**18, description="Random seed of weights, data order and dropout.")

    @model_validator(mode="after")
    def _strategies_agree(self) -> "Trial":
        if self.strategy != PLAIN:
            importlib.import_module(STRATEGIES).check_strategies(self)
        return self

    def identity(self) -> dict[str, Any]:
        """Return what tells this trial from others, as JSON values: every option that differs from its default."""
        values = {name: getattr(self, name) for name in Trial.model_fields}
        defaults = {name: field.get_default(call_default_factory=True) for name, field in Trial.model_fields.items()}
        return _plain_numbers({name: value for name, value in values.items() if value != defaults[name]})

    @property
    def trial_id(self) -> str:
        """A readable head and eight hex digits of the canonical JSON, such as `lstm-small-s0-3f9ac21e`."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        digits = hashlib.sha256(canonical.encode()).hexdigest()[:ID_DIGITS]
        strategies = [name for name in names_of_strategies(self.strategy) if name != PLAIN]
        head = [self.architecture, self.preset, *strategies, f"s{self.seed}"]
        return "-".join([*head, digits])
