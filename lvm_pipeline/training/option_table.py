"""Every training option with default, limits and meaning: the table of the docs and of `lvm list options`."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from lvm_pipeline.architectures._config import FROM_DATA, meanings
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.training.config import NESTED, TrainingConfig
from lvm_pipeline.training.strategies import STRATEGIES

LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One training option; `name` is as `--set` takes it."""

    name: str
    default: Any
    limits: str
    meaning: str

    def as_row(self) -> dict[str, Any]:
        """Return what a table shows."""
        return {"option": self.name, "default": self.default, "limits": self.limits, "meaning": self.meaning}


def training_options(architecture: str) -> list[Option]:
    """Return the options of a training, of an architecture's model and of every strategy.

    Raises:
        LvmError: If there is no such architecture.
    """
    return [*_general_options(), *model_options(architecture), *_strategy_options()]


def _general_options() -> Iterator[Option]:
    for name, field in TrainingConfig.model_fields.items():
        if name not in NESTED:
            default = "(architecture's)" if field.default is None else field.default
            yield Option(name=name, default=default, limits=_limits(field), meaning=field.description or "")


def model_options(architecture: str) -> Iterator[Option]:
    """Yield the fields of an architecture's config; defaults are those of the preset `small`."""
    config = load_architecture(architecture).preset("small").config
    for name, (_, meaning) in meanings(type(config)).items():
        if name not in FROM_DATA:
            default = getattr(config, name)
            shown = list(default) if isinstance(default, tuple) else default
            yield Option(name=f"model.{name}", default=shown, limits="", meaning=meaning)


def _strategy_options() -> Iterator[Option]:
    for strategy in STRATEGIES.values():
        for field in fields(strategy.options):
            meaning = f"{strategy.name}: {field.metadata.get('meaning', '')}"
            yield Option(name=f"strategy_options.{field.name}", default=field.default, limits="", meaning=meaning)


def _limits(field: FieldInfo) -> str:
    choices = [value for part in (field.annotation, *get_args(field.annotation)) for value in _choices(part)]
    if choices:
        return ", ".join(choices)
    found = [
        f"{words} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, words in LIMITS.items()
        if hasattr(limit, name)
    ]
    return " and ".join(found)


def _choices(annotation: Any) -> list[str]:
    return [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else []
