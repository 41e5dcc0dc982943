"""Week 5: ensembles of the best trials, and refinement of the best config.

Its trials depend on the scores of weeks 1 to 4, so they are known once those are done. Each refinement depends on the
ones before it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvm_pipeline.experiments.ensemble import Weighting, ensemble_trial
from lvm_pipeline.experiments.plan import LAST_WEEK, PlannedTrial
from lvm_pipeline.experiments.refinement import AXES
from lvm_pipeline.training.config import TrainingConfig

# Name, number of members, weights, and whether every member is of another architecture.
ENSEMBLES: tuple[tuple[str, int, Weighting, bool], ...] = (
    ("top3", 3, "equal", False),
    ("top3_weighted", 3, "validation", False),
    ("top3_architectures", 3, "equal", True),
    ("top3_architectures_weighted", 3, "validation", True),
    ("top5_architectures", 5, "equal", True),
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A trial of weeks 1 to 4 with its validation cosine."""

    trial: PlannedTrial
    cosine: float


def best_of(scored: Sequence[Scored]) -> Scored:
    """Return the best trial of the config with the highest mean cosine over its seeds."""
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


def refinement(best: PlannedTrial, options: Mapping[str, float]) -> PlannedTrial:
    """Return the best config with other values of some options."""
    model = {name.removeprefix("model."): value for name, value in options.items() if name.startswith("model.")}
    rest = {name: value for name, value in options.items() if not name.startswith("model.")}
    config = best.config.with_options(**rest, model={**best.config.model, **model})
    return PlannedTrial(week=LAST_WEEK, config=config, purpose="refinement")


def refined_options(trial: PlannedTrial) -> dict[str, float]:
    """Return the values of a refinement's options, as they were proposed."""
    config = trial.config
    model = {f"model.{name}": value for name, value in config.model.items()}
    return {axis.option: model[axis.option] if axis.option in model else getattr(config, axis.option) for axis in AXES}


def from_identity(options: Mapping[str, Any], base: TrainingConfig) -> TrainingConfig:
    """Return the config of a settled trial on this machine."""
    return TrainingConfig(**{**_machine_options(base), **options})


def _machine_options(base: TrainingConfig) -> dict[str, Any]:
    """Return the options that are not part of the trial: device, threads and others."""
    return {name: value for name, value in base.as_json().items() if name not in type(base.trial).model_fields}
