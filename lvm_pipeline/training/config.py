"""The options of one training: those of its trial, and how it runs on this machine."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from lvm_pipeline.errors import LvmError, nearest_or_all
from lvm_pipeline.training.trial import Trial, parsed

Launcher = Literal["inprocess", "subprocess", "torchrun", "ray", "k8s"]

NESTED = ("model", "strategy_options")  # options that are set by dotted names: model.hidden_dim


class TrainingConfig(Trial):
    """One training, completely. The options below change where and how fast it runs; its trial stays the same."""

    device: str = Field(default="auto", description="Device: auto, cpu, cuda or cuda:N.")
    num_threads: int = Field(default=2, ge=1, description="PyTorch threads on a CPU.")
    compile: bool = Field(
        default=False,
        description="Use torch.compile for trainings on windows, with the architectures that gain from it. The first "
        "step takes about a minute.",
    )
    launcher: Launcher = Field(
        default="subprocess",
        description="What runs a training that Dagster starts: inprocess (the step's process), subprocess (a child "
        "process), torchrun (num_processes on this machine), ray (num_processes on a Ray cluster), k8s (a Kubernetes "
        "job). lvm train also supports torchrun and ray; with any other launcher it trains in its own process.",
    )
    num_processes: int | None = Field(
        default=None,
        ge=1,
        description="Processes that share each batch, with torchrun or ray. Default: one per GPU, or 2 without a GPU.",
    )
    shard_weights: bool | None = Field(
        default=None,
        description="With torchrun or ray: split weights, gradients and optimiser state across the processes (FSDP2), "
        "instead of keeping a copy in each (DDP). Default: for models of a billion parameters or more.",
    )
    checkpoint_seconds: float = Field(default=30.0, ge=0, description="Seconds between checkpoints.")
    checkpoints_kept: int = Field(default=2, ge=1, description="Latest checkpoints to keep while a training runs.")

    @property
    def trial(self) -> Trial:
        return Trial(**{name: getattr(self, name) for name in Trial.model_fields})

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TrainingConfig.model_fields}

    def with_options(self, **changes: Any) -> "TrainingConfig":
        return training_config({**self.as_json(), **changes})


def training_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Make a config from options by name; dotted names reach into nested ones, text is read as the option's type.

    Raises:
        LvmError: If there is no such option, or a value cannot be used.
    """
    nested = nested_options(values)
    unknown = [name for name in nested if name not in TrainingConfig.model_fields]
    if unknown:
        raise LvmError(unknown_option(unknown[0], TrainingConfig.model_fields))
    try:
        return TrainingConfig(**nested)
    except ValidationError as error:
        raise LvmError(f"The training options cannot be used: {problems_in_words(error)}.") from None


def nested_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted names as nested mappings: `model.hidden_dim` becomes an entry of `model`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        head, dot, tail = name.partition(".")
        if dot and head in NESTED:
            nested[head] = {**(nested.get(head) or {}), tail: value}
        elif name in NESTED:
            nested[name] = {**parsed_mapping(name, value), **(nested.get(name) or {})}
        else:
            nested[name] = value
    return nested


def parsed_mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a nested option's values, given as a mapping or as JSON. Raises LvmError if it is neither."""
    value = parsed(value)
    if not isinstance(value, Mapping):
        raise LvmError(f"{name} must be a mapping of names to values, got {value!r}; set {name}.NAME=VALUE instead.")
    return dict(value)


def unknown_option(name: str, known: Iterable[str]) -> str:
    """Return the sentence for an option that does not exist."""
    head, dot, tail = name.partition(".")
    if dot and head not in NESTED:
        known = (f"{each}.{tail}" if each in NESTED else each for each in known)
    return f"There is no training option {name!r}; {nearest_or_all(name, known)}"


def problems_in_words(error: ValidationError) -> str:
    """Return what pydantic found, each problem with the option's name and the value seen."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg'].lower()}, got {problem['input']!r}"
        for problem in error.errors()
    )
