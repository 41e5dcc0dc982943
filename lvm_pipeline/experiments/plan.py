"""The plan: the trials of each week, as data. They are generated from sweeps and counts, not listed by hand.

An architecture's `sweep` names the fields to vary and their values at its full size. At another preset the same fields
are varied, and values that are sizes shrink with the preset. If the whole grid is larger than the architecture's number
of trials, one field is varied at a time. If the grid has fewer configs than there are trials, the first configs are
repeated with other seeds.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig

if TYPE_CHECKING:
    from lvm_pipeline.architectures._contract import Architecture

WEEKS = {1: "baselines", 2: "state space", 3: "transformers", 4: "advanced", 5: "ensembles and refinement"}
LAST_WEEK = 5
LARGEST_STEP = 32  # widths are multiples of this, or of the largest power of two that divides the preset's width
FULL = "full"

Purpose = Literal["sweep", "refinement", "ensemble"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many trials of the plan an architecture gets, in which week."""

    architecture: str  # its name
    week: int  # week of the plan
    count: int  # number of trials
    options: Mapping[str, Any] = field(default_factory=dict)  # training options that all of them share
    is_addition: bool = False  # whether the trials are in addition to the 100 of the request


SHARES = (
    Share(architecture="lstm", week=1, count=10),
    Share(architecture="gru", week=1, count=5),
    Share(architecture="mamba2", week=2, count=15),
    Share(architecture="hybrid", week=2, count=10),
    Share(architecture="s4", week=2, count=5),
    Share(architecture="distilgpt2", week=3, count=10),
    Share(architecture="linformer", week=3, count=5),
    Share(architecture="performer", week=3, count=5),
    Share(architecture="hyena", week=4, count=7),
    Share(architecture="retnet", week=4, count=8),
    Share(architecture="lcm", week=4, count=5, options={"mode": "windows", "strategy": "fine_tune"}),
    Share(architecture="rwkv", week=4, count=5, is_addition=True),
)
NUM_ENSEMBLES, NUM_REFINEMENTS = 5, 10


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    week: int  # its week
    config: TrainingConfig  # what is trained, completely
    is_addition: bool = False  # whether it is in addition to the 100 trials of the request
    # what it is for: the sweep of an architecture, the refinement of the best config, or an ensemble
    purpose: Purpose = "sweep"

    @property
    def trial_id(self) -> str:
        return self.config.trial.trial_id

    @property
    def group(self) -> str:
        """The config as one text, equal for trials that only differ in the seed."""
        return group_of(self.config.trial.identity())

    @property
    def overrides(self) -> dict[str, Any]:
        """Every option that differs from its default, except those that have a column of their own."""
        own = ("architecture", "preset", "strategy", "seed", "model")
        identity = self.config.trial.identity()
        model = {f"model.{name}": value for name, value in self.config.model.items()}
        return model | {name: value for name, value in identity.items() if name not in own}


def group_of(identity: Mapping[str, Any]) -> str:
    """Return a trial's options without its seed as one text, equal for trials that differ in the seed alone."""
    return "; ".join(f"{name}={identity[name]}" for name in sorted(identity) if name != "seed")


def planned_trials(base: TrainingConfig, *, shares: Iterable[Share]) -> list[PlannedTrial]:
    """Return the trials of weeks 1 to 4, in the order in which they are run.

    `base` has the preset, the first seed and every option that the plan does not vary.
    """
    return [
        PlannedTrial(week=share.week, config=config, is_addition=share.is_addition)
        for share in shares
        for config in _configs_of(share, base)
    ]


def _configs_of(share: Share, base: TrainingConfig) -> list[TrainingConfig]:
    swept = sweep_configs(load_architecture(share.architecture), base.preset, count=share.count)
    numbers = range(math.ceil(share.count / len(swept)))
    repeated = [(overrides, seed) for seed in numbers for overrides in swept][: share.count]
    own = {"architecture": share.architecture, **share.options}
    return [
        base.with_options(**own, model={**base.model, **overrides}, seed=base.seed + seed)
        for overrides, seed in sorted(repeated, key=lambda pair: swept.index(pair[0]))
    ]


def sweep_configs(architecture: "Architecture", preset: str, *, count: int) -> list[dict[str, Any]]:
    """Return at most `count` different overrides of a preset's config, from the architecture's sweep.

    The whole grid if it is small enough; else one field at a time, the others as in the preset.
    """
    config = architecture.preset(preset).config
    axes = {name: axis_values(architecture, preset, name) for name in architecture.sweep}
    grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(grid) > count:
        grid = [{name: value} for name, values in axes.items() for value in values]
    changed = [{name: value for name, value in each.items() if value != getattr(config, name)} for each in grid]
    different = [each for number, each in enumerate(changed) if each not in changed[:number]]
    return different[:count] or [{}]


def axis_values(architecture: "Architecture", preset: str, name: str) -> tuple[Any, ...]:
    """Return the values of one swept field at a preset.

    The sweep's own values are used if they cover the preset's value or are not numbers. Otherwise they are scaled by
    the ratio of the preset's value to that of the full preset, rounded, and kept distinct.
    """
    values = architecture.sweep[name]
    own, full = (getattr(architecture.preset(each).config, name) for each in (preset, FULL))
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in (*values, own, full)):
        return values
    if min(values) <= own <= max(values) or own == full:
        return values
    step = math.gcd(own, LARGEST_STEP) if name.endswith("_dim") else 1
    scaled: list[int] = []
    for value in sorted(values):
        nearest = step * max(1, round(value * own / full / step))
        scaled.append(nearest if not scaled or nearest > scaled[-1] else scaled[-1] + step)
    return tuple(scaled)


def check_week(week: int | None) -> None:
    if week is not None and week not in WEEKS:
        listed = ", ".join(f"{number} ({words})" for number, words in WEEKS.items())
        raise LvmError(f"The plan has no week {week}; its weeks are {listed}.")


def of_week(trials: Sequence[PlannedTrial], week: int | None) -> list[PlannedTrial]:
    return [trial for trial in trials if week in (None, trial.week)]
