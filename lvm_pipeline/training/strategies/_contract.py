"""What a strategy declares: a function from config and data to phases, and its options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.phases import Phase


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a strategy that has none."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to stage a training.

    Attributes:
        name: Its name, which is its module's.
        summary: What it does, one sentence.
        phases: Returns the phases for a settled config, the data and the options.
        options: Frozen dataclass of its options, each with a default.
    """

    name: str
    summary: str
    phases: Callable[[TrainingConfig, TrainingData, Any], list[Phase]]
    options: type = NoOptions

    def options_from(self, values: Mapping[str, Any]) -> Any:
        """Return the options with some of them replaced.

        Raises:
            LvmError: If one does not exist; the message lists what exists.
        """
        known = [field.name for field in fields(self.options)]
        for name in values:
            if name not in known:
                listed = ", ".join(known) or "none"
                raise LvmError(f"The strategy {self.name} has no option {name!r}; its options are: {listed}.")
        return self.options(**values)


def planned_phases(strategy: Strategy, config: TrainingConfig, data: TrainingData) -> list[Phase]:
    """Return the phases of a training.

    Raises:
        LvmError: If an option of the strategy does not exist, or there is nothing to train on.
    """
    return strategy.phases(config, data, strategy.options_from(config.strategy_options))
