"""The launchpad's fields for a training: every option as `TrainingConfig` declares it, with its description.

Dagster shows Literals as free text; as enumerations the launchpad lists the choices.
"""

import enum
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from lvm_pipeline.architectures._config import FROM_DATA, BackboneConfig, meanings
from lvm_pipeline.settings import Settings, with_options
from lvm_pipeline.training.config import TrainingConfig

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


def _kind_of(name: str, field: FieldInfo) -> Any:
    if name == "model":
        return ModelOptions
    if name == "strategy_options":
        return dict[str, Any]
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return enum.Enum(name.title().replace("_", ""), {str(value): value for value in get_args(annotation)})
    if get_origin(annotation) in (UnionType, Union):
        return next(each for each in get_args(annotation) if each is not type(None))
    return annotation


def _fields() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, field in TrainingConfig.model_fields.items():
        if name == PARTITION:
            continue
        kind = _kind_of(name, field)
        if name in ("model", "strategy_options"):
            fields[name] = (kind, Field(default=kind() if name == "model" else {}, description=field.description))
            continue
        default = "the architecture's" if field.default is None else field.default
        fields[name] = (kind | None, Field(default=None, description=f"{field.description} (Default: {default}.)"))
    return fields


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


def settings_with(settings: Settings, options: TrainingOptions) -> Settings:
    """Return the settings with the launchpad's values in them, checked like any others.

    Raises:
        LvmError: If a value cannot be used; it names the launchpad's field.
    """
    given = {
        name: value.value if isinstance(value, enum.Enum) else value
        for name, value in dict(options).items()
        if name != "again" and value is not None
    }
    for name in ("model", "strategy_options"):
        values = {each: value for each, value in dict(given[name]).items() if value is not None}
        given[name] = values or None
    return with_options(settings, given)
