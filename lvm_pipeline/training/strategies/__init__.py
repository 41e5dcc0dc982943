"""Strategies: one module each, found by scanning this folder, except names with a leading underscore."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline.concepts.content_kinds import CODES
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.trial import PLAIN, Trial, names_of_strategies

if TYPE_CHECKING:
    from lvm_pipeline.architectures._contract import LatentVectorModel
    from lvm_pipeline.concepts.schema import ConceptsMetadata
    from lvm_pipeline.training.config import TrainingConfig
    from lvm_pipeline.training.data import TrainingData
    from lvm_pipeline.training.strategies._contract import Staging, Strategy


def strategy_names() -> list[str]:
    """Return the names of all strategies, without importing any."""
    return list(_module_names())


@cache
def _module_names() -> tuple[str, ...]:
    folder = str(Path(__file__).parent)
    return tuple(sorted(each.name for each in pkgutil.iter_modules([folder]) if not each.name.startswith("_")))


def load_strategy(name: str) -> "Strategy":
    """Import one strategy. Raises LvmError if there is none of that name; the message lists what exists."""
    if name not in strategy_names():
        raise LvmError(
            f"There is no strategy {name!r}; there are {', '.join(strategy_names())}. Join several with +, such as "
            "progressive+tmd."
        )
    return importlib.import_module(f"{__name__}.{name}").STRATEGY


def strategies_of(trial: Trial) -> "list[tuple[Strategy, Any]]":
    """Return the strategies of a trial in the order in which they are applied, each with its options.

    Raises:
        LvmError: If a strategy or an option does not exist; the message lists what exists.
    """
    from lvm_pipeline.training.strategies._contract import AFFECTS

    found = [load_strategy(name) for name in names_of_strategies(trial.strategy)]
    known = {strategy.name: [each.name for each in fields(strategy.options)] for strategy in found}
    for name in trial.strategy_options:
        if not any(name in names for names in known.values()):
            listed = ", ".join(each for names in known.values() for each in names) or "none"
            raise LvmError(f"The strategy {trial.strategy} has no option {name!r}; its options are: {listed}.")
    found.sort(key=lambda strategy: (AFFECTS.index(strategy.affects), strategy.name))
    return [
        (each, each.options_from({k: v for k, v in trial.strategy_options.items() if k in known[each.name]}))
        for each in found
    ]


def check_strategies(trial: Trial) -> None:
    """Refuse a trial whose strategies or options contradict each other or the rest of the trial.

    Raises:
        LvmError: With the contradiction, or what exists if a strategy or an option does not.
    """
    from lvm_pipeline.training.strategies._contract import EXCLUSIVE

    found = strategies_of(trial)
    for affected in EXCLUSIVE:
        names = [strategy.name for strategy, _ in found if strategy.affects == affected]
        if len(names) > 1:
            raise LvmError(f"The strategies {' and '.join(names)} both decide the {affected}; choose one of them.")
    for strategy, options in found:
        if (reason := strategy.refused(trial, options)) is not None:
            raise LvmError(f"The strategy {strategy.name} cannot be used like this: {reason}.")


def staged(config: "TrainingConfig", data: "TrainingData") -> "Staging":
    """Stage a training: start with one phase over the train split and apply each strategy in turn.

    Raises:
        LvmError: If there is nothing to train on, or a strategy cannot work on the data.
    """
    from lvm_pipeline.training.phases import phase_of, train_spans
    from lvm_pipeline.training.strategies._contract import Staging

    staging = Staging(phases=(phase_of(config, train_spans(config, data)),))
    for strategy, options in strategies_of(config.trial):
        staging = strategy.stage(staging, config, data, options)
    return staging


def extended(model: "LatentVectorModel", trial: Trial) -> "LatentVectorModel":
    """Return a model with the modules that the strategies of a trial add."""
    if trial.strategy == PLAIN:
        return model
    for strategy, options in strategies_of(trial):
        model = model if strategy.extend is None else strategy.extend(model, options)
    return model


def content_kinds(trial: Trial) -> set[str]:
    """Return which of the table's texts, codes and negatives a trial reads."""
    kinds = {CODES} if trial.model.get("condition_dim") else set()
    if trial.strategy != PLAIN:
        kinds.update(*(strategy.reads_content(options) for strategy, options in strategies_of(trial)))
    return kinds


def content_read(trial: Trial, concepts: "ConceptsMetadata") -> str | None:
    """Return the fingerprint of what a trial reads of the table's texts, codes and negatives.

    None if it reads none of them, or if the table is of an earlier version and has no such fingerprint.
    """
    return concepts.content(content_kinds(trial))


def strategy_fingerprints(trial: Trial, data: "TrainingData") -> dict[str, str]:
    """Return the fingerprints of what a trial's strategies read beside the tables; what is missing is left out."""
    found = strategies_of(trial) if trial.strategy != PLAIN else []
    return {name: each for strategy, options in found for name, each in strategy.fingerprints(data, options).items()}


def condition_of(trial: Trial, data: "TrainingData", *, condition_dim: int) -> Any:
    """Return the condition (N, C) that a trial's model of this `condition_dim` reads; None if it reads none.

    Raises:
        LvmError: If the data do not have it.
    """
    if trial.strategy != PLAIN and condition_dim:
        for strategy, options in strategies_of(trial):
            if strategy.condition is not None:
                return strategy.condition(data, options)
    return data.condition(condition_dim)


class _Strategies(Mapping[str, "Strategy"]):
    """All strategies by name, each imported when it is first asked for."""

    def __getitem__(self, name: str) -> "Strategy":
        if name not in strategy_names():
            raise KeyError(name)
        return load_strategy(name)

    def __iter__(self) -> Iterator[str]:
        return iter(strategy_names())

    def __len__(self) -> int:
        return len(strategy_names())


STRATEGIES: Mapping[str, "Strategy"] = _Strategies()
