"""The config of a model: a frozen dataclass whose fields say what they mean. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, get_type_hints

from lvm_pipeline.errors import LvmError, nearest_or_all

FROM_DATA = ("vector_dim", "unit_length")  # fields that the data decide, not a training option
HEADS = ("mixing", "means", "none")
_TYPE_NAMES = {
    tuple: "a list of numbers",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def option(default: Any, meaning: str) -> Any:
    """Declare a field of a config with its default and its meaning, which docs and launchpad show."""
    return field(default=default, metadata={"meaning": meaning})


def meanings(config_class: type["ModelConfig"]) -> dict[str, tuple[Any, str]]:
    """Return type and meaning of every field of a config class, by name."""
    kinds = get_type_hints(config_class)
    return {each.name: (kinds[each.name], _meaning(config_class, each.name)) for each in fields(config_class)}


def _meaning(config_class: type["ModelConfig"], name: str) -> str:
    """Return the meaning that the nearest class declares; a subclass may replace the default alone."""
    declared = (each.__dict__.get("__dataclass_fields__", {}).get(name) for each in config_class.__mro__)
    return next((each.metadata["meaning"] for each in declared if each is not None and each.metadata), "")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Fields that every model's config has; an architecture's module adds its own."""

    vector_dim: int = option(768, "Width D of the concept vectors; follows the data.")
    unit_length: bool = option(True, "Normalise predictions to unit length; follows the data.")

    condition_dim: ClassVar[int] = 0  # width of the condition beside every concept

    def __post_init__(self) -> None:
        self.require(self.vector_dim >= 1, "vector_dim", "at least 1")

    def require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise LvmError(f"{type(self).__name__}: {name} must be {allowed}, got {getattr(self, name)!r}.")

    def require_decays(self, name: str) -> None:
        self.require(all(0.0 <= decay <= 1.0 for decay in getattr(self, name)), name, "decays from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(ModelConfig):
    """Fields that every architecture's config shares; a module adds its own."""

    hidden_dim: int = option(512, "Width H of the hidden states.")
    num_layers: int = option(2, "Number of layers.")
    dropout: float = option(0.0, "Dropout probability.")
    head: str = option(
        "mixing",
        "What the output of the mixers is added to: mixing (attention over the context, starts at its fitted weighted "
        "mean), means (a weighted sum of decayed means, its state has a fixed size), none.",
    )
    correction_rank: int | None = option(None, "Rank of the output projection; none: full rank.")
    scales: tuple[float, ...] = option(
        (0.0, 0.3, 0.5, 0.85, 0.93), "Decays of the further context means that the head can weigh in."
    )
    condition_dim: int = option(  # pyright: ignore[reportIncompatibleVariableOverride]  # a field from here on
        0, "Width of the condition beside every concept (16: TMD vectors; 0: none)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.hidden_dim >= 1, "hidden_dim", "at least 1")
        self.require(self.num_layers >= 1, "num_layers", "at least 1")
        self.require(self.head in HEADS, "head", f"one of {', '.join(HEADS)}")
        self.require(0.0 <= self.dropout < 1.0, "dropout", "at least 0 and below 1")
        self.require(
            self.correction_rank is None or self.correction_rank >= 1, "correction_rank", "at least 1, or nothing"
        )
        self.require_decays("scales")
        self.require(self.condition_dim >= 0, "condition_dim", "0 or more")


def config_with(config: ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """Return the config with some fields replaced; lists, as options hold them, become tuples.

    Raises:
        LvmError: If a field does not exist (the message lists what exists) or has a value that cannot be used.
    """
    return replace(config, **checked_overrides(config, overrides))


def checked_overrides(config: ModelConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides, lists as tuples, if the config has such fields of such types.

    Whether values fit each other, and the data, shows only once the config is made.

    Raises:
        LvmError: If a field does not exist, or has a value of another type.
    """
    declared = {f.name: f for f in fields(config)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()}
    for name, value in given.items():
        if name not in declared:
            raise LvmError(f"{type(config).__name__} has no field {name!r}; {nearest_or_all(name, sorted(declared))}")
        _check_type(type(config).__name__, name, value, like=getattr(config, name), annotation=str(declared[name].type))
    return given


def _check_type(owner: str, name: str, value: Any, *, like: Any, annotation: str) -> None:
    if value is None and "None" in annotation:
        return
    expected = next((kind for kind in _TYPE_NAMES if kind.__name__ in annotation), type(like))
    if not _is_of_type(value, expected):
        raise LvmError(f"{owner}: {name} must be {_TYPE_NAMES.get(expected, expected)}, got {value!r}.")


def _is_of_type(value: Any, expected: type) -> bool:
    if expected is tuple:
        return isinstance(value, tuple) and all(_is_of_type(each, float) for each in value)
    accepted = (int, float) if expected is float else expected
    return isinstance(value, accepted) and (expected is bool or not isinstance(value, bool))
