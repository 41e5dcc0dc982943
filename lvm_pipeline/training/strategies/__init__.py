"""Strategies: one module each, found by scanning this folder; an underscore marks machinery."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.errors import LvmError

if TYPE_CHECKING:
    from lvm_pipeline.training.strategies._contract import Strategy


def strategy_names() -> list[str]:
    """Return the names of all strategies, without importing any."""
    return sorted(each.name for each in pkgutil.iter_modules([str(Path(__file__).parent)]) if each.name[0] != "_")


def load_strategy(name: str) -> "Strategy":
    """Import one strategy.

    Raises:
        LvmError: If there is none of that name; the message lists what exists.
    """
    if name not in strategy_names():
        raise LvmError(f"There is no strategy {name!r}; there are {', '.join(strategy_names())}.")
    return importlib.import_module(f"{__name__}.{name}").STRATEGY


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
