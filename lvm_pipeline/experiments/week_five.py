"""Week 5: ensembles of the best trials, and refinement of the best config by Latin hypercube sampling.

Its trials follow from the scores of weeks 1 to 4, so they are settled when those have been run.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvm_pipeline.experiments.ensemble import Weighting, ensemble_trial
from lvm_pipeline.experiments.plan import LAST_WEEK, NUM_REFINEMENTS, PlannedTrial
from lvm_pipeline.training.config import TrainingConfig

# Name, number of members, weights, and whether every member is of another architecture.
ENSEMBLES: tuple[tuple[str, int, Weighting, bool], ...] = (
    ("top3", 3, "equal", False),
    ("top3_weighted", 3, "validation", False),
    ("top3_architectures", 3, "equal", True),
    ("top3_architectures_weighted", 3, "validation", True),
    ("top5_architectures", 5, "equal", True),
)

DIGITS = 3  # of a drawn value


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A training option and the range that is searched; relative ranges are factors of the best config's value."""

    option: str
    low: float
    high: float
    is_log: bool = True
    is_relative: bool = False

    def value(self, fraction: float, best: float) -> float:
        """Return the value at a fraction, 0 to 1, of the range."""
        if self.is_log:
            found = self.low * (self.high / self.low) ** fraction
        else:
            found = self.low + (self.high - self.low) * fraction
        return float(f"{found * (best if self.is_relative else 1.0):.{DIGITS}g}")


AXES = (
    Axis(option="learning_rate", low=1 / 3, high=3.0, is_relative=True),
    Axis(option="correction_learning_rate_factor", low=0.1, high=1.0),
    Axis(option="weight_decay", low=1e-3, high=0.1),
    Axis(option="model.dropout", low=0.0, high=0.4, is_log=False),
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A trial of weeks 1 to 4 with its validation cosine."""

    trial: PlannedTrial
    cosine: float


def best_of(scored: Sequence[Scored]) -> Scored:
    """Return the best trial of the config whose seeds have the highest mean cosine."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for each in scored:
        groups[each.trial.group].append(each)
    best = max(groups.values(), key=lambda group: float(np.mean([each.cosine for each in group])))
    return max(best, key=lambda each: each.cosine)


def ensembles(scored: Sequence[Scored], base: TrainingConfig) -> list[PlannedTrial]:
    """Return the ensembles of the best trials; one that has too few members is left out."""
    ranked = [each.trial for each in sorted(scored, key=lambda each: -each.cosine)]
    first_of = {trial.config.architecture: trial for trial in reversed(ranked)}
    different = [trial for trial in ranked if first_of[trial.config.architecture] is trial]
    planned = []
    for name, num_members, weights, is_mixed in ENSEMBLES:
        members = sorted(trial.trial_id for trial in (different if is_mixed else ranked)[:num_members])
        if len(members) == num_members:
            config = from_identity(ensemble_trial(members, name=name, weighting=weights).identity(), base)
            planned.append(PlannedTrial(week=LAST_WEEK, config=config, purpose="ensemble"))
    return planned


def refinements(best: PlannedTrial, training: Mapping[str, Any]) -> list[PlannedTrial]:
    """Return the refinements of the best config; `training` has its settled training options."""
    return [
        PlannedTrial(week=LAST_WEEK, config=_replaced(best.config, options), purpose="refinement")
        for options in refined_options(training, count=NUM_REFINEMENTS)
    ]


def from_identity(options: Mapping[str, Any], base: TrainingConfig) -> TrainingConfig:
    """Return the config of a settled trial on this machine."""
    return TrainingConfig(**{**_machine_options(base), **options})


def _machine_options(base: TrainingConfig) -> dict[str, Any]:
    """Return the options that do not belong to the trial: device, threads and the like."""
    return {name: value for name, value in base.as_json().items() if name not in type(base.trial).model_fields}


def _replaced(config: TrainingConfig, options: Mapping[str, float]) -> TrainingConfig:
    model = {name.removeprefix("model."): value for name, value in options.items() if name.startswith("model.")}
    rest = {name: value for name, value in options.items() if not name.startswith("model.")}
    return config.with_options(**rest, model={**config.model, **model})


def refined_options(training: Mapping[str, Any], *, count: int, seed: int = 0) -> list[dict[str, float]]:
    """Return `count` replacements of options in the best config, whose settled training options are `training`.

    Every axis is cut into `count` slices of equal size and each slice is used once, in random order.
    """
    rng = np.random.default_rng(seed)
    drawn = {axis.option: (rng.permutation(count) + rng.uniform(size=count)) / count for axis in AXES}
    return [
        {axis.option: axis.value(float(drawn[axis.option][i]), training.get(axis.option, 1.0)) for axis in AXES}
        for i in range(count)
    ]
