"""The launchpad's fields for a training: every option as `TrainingConfig` declares it, with its description.

Dagster shows Literals as free text; as enumerations the launchpad lists the choices.
"""

import enum
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from lvm_pipeline.architectures._config import FROM_DATA, BackboneConfig, meanings
from lvm_pipeline.architectures._registry import preset_names
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, with_options
from lvm_pipeline.training.config import NESTED, TrainingConfig
from lvm_pipeline.training.strategies import strategy_names

STRATEGIES_LISTED = "The launchpad takes a list of strategies."
PARTITION = "architecture"  # chosen by the partition
AGAIN = "Train even if nothing has changed, and from the beginning if a checkpoint cannot be resumed."


def _model_options() -> type[dg.PermissiveConfig]:
    """Return the fields that all architectures share; others are allowed, and checked when the training starts."""
    shown: dict[str, Any] = {
        name: ((list[float] if kind == tuple[float, ...] else kind) | None, Field(default=None, description=meaning))
        for name, (kind, meaning) in meanings(BackboneConfig).items()
        if name not in FROM_DATA
    }
    return create_model("ModelOptions", __base__=dg.PermissiveConfig, **shown)


def choices(name: str, values: Iterable[str]) -> Any:
    """Return an enumeration, which the launchpad lists and Dagster checks before a run starts."""
    return enum.Enum(name.title().replace("_", ""), {value: value for value in values})


def _kind_of(name: str, field: FieldInfo) -> Any:
    if name == "model":
        return ModelOptions
    if name == "strategy_options":
        return dict[str, Any]
    if name == "preset":
        return PresetChoice
    if name == "strategy":
        return list[choices(name, strategy_names())]
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return choices(name, get_args(annotation))
    if get_origin(annotation) in (UnionType, Union):
        return next(each for each in get_args(annotation) if each is not type(None))
    return annotation


def _fields() -> dict[str, Any]:
    """Return the fields, with the declared defaults for "Scaffold all default config".

    A default counts only where the run's config names the field (`given_options`).
    """
    fields: dict[str, Any] = {}
    for name, field in TrainingConfig.model_fields.items():
        if name == PARTITION:
            continue
        kind, default = _kind_of(name, field), field.default
        if name in NESTED:
            default = kind() if name == "model" else {}
        elif name == "strategy":
            default = [default]
        elif isinstance(kind, enum.EnumMeta):
            default = kind(default)
        words = f"{field.description} {STRATEGIES_LISTED if name == 'strategy' else ''}".strip()
        fields[name] = (kind if default is not None else kind | None, Field(default=default, description=words))
    return fields


PresetChoice = choices("preset", preset_names())
ModelOptions = _model_options()

if TYPE_CHECKING:

    class TrainingOptions(dg.Config):
        """Options of this run. Fields that are left out keep the value of their environment variable."""

        again: bool
else:
    TrainingOptions = create_model(
        "TrainingOptions",
        __base__=dg.Config,
        __doc__="Options of this run. Fields that are left out keep the value of their environment variable.",
        again=(bool, Field(default=False, description=AGAIN)),
        **_fields(),
    )


def given_options(context: dg.AssetExecutionContext | dg.OpExecutionContext, name: str) -> frozenset[str]:
    """Return the fields that the config of a run names for an asset or op; the others keep their variable's value."""
    config: Any = context.run.run_config  # declared as an object
    return frozenset(config.get("ops", {}).get(name, {}).get("config", {}))


def settings_with(settings: Settings, options: TrainingOptions, given: AbstractSet[str]) -> Settings:
    """Return the settings with the given fields of the launchpad in them, checked like any others.

    Raises:
        LvmError: If a value cannot be used; it names the launchpad's field.
    """
    values = {name: _plain(value) for name, value in dict(options).items() if name in given and name != "again"}
    for name in set(NESTED) & values.keys():
        named = {each: value for each, value in dict(values[name]).items() if value is not None}
        values[name] = named or None
    if "strategy" in values:
        values["strategy"] = "+".join(values["strategy"])
    try:
        return with_options(settings, values)
    except LvmError as error:
        raise LvmError(f"{error} Correct the field in the launchpad.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, enum.Enum) else value
