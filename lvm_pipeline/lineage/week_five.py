"""Week 5 of the plan on disk: determined when weeks 1 to 4 have been run, then refined trial by trial.

LVM_HOME/plan/week_5.json   the best config of weeks 1 to 4, the ensembles, and the refinements proposed so far
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm_pipeline import files
from lvm_pipeline.lineage.models import training_config_of
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.experiments.plan import PlannedTrial
    from lvm_pipeline.experiments.refinement import Proposal, Refinement
    from lvm_pipeline.experiments.week_five import Scored

FILE = "week_5.json"


@dataclass
class WeekFive:
    key: dict[str, Any]  # fingerprints of the data and ids of the trials that it follows from
    best: "PlannedTrial"  # the config that is refined, with the seed that scored best
    ensembles: "list[PlannedTrial]"
    refinements: "list[PlannedTrial]" = field(default_factory=list)  # those proposed so far, in their order

    @property
    def name(self) -> str:
        """Name of the search in Optuna's storage."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        return f"{self.best.trial_id}-{digest[:8]}"

    def search(self, settings: Settings) -> "Refinement":
        """Open the Optuna search, kept in the database `optuna` of the embedded server."""
        from lvm_pipeline.adapters import databases
        from lvm_pipeline.experiments.refinement import Refinement

        info = trial_folder(settings, self.best.trial_id).info()
        training = {} if info is None else info.training
        return Refinement(databases.optuna_url(settings), self.name, training=training, seed=settings.seed)

    def take(self, settings: Settings, proposal: "Proposal") -> "PlannedTrial":
        """Return the trial of a proposal, and remember it."""
        from lvm_pipeline.experiments import week_five

        trial = week_five.refinement(self.best, proposal.options)
        if trial.trial_id not in {each.trial_id for each in self.refinements}:
            self.refinements.append(trial)
            self.write(settings)
        return trial

    def write(self, settings: Settings) -> None:
        values = {name: [each.config.trial.identity() for each in getattr(self, name)] for name in _LISTS}
        files.write_json(_path(settings), {"key": self.key, "best": self.best.config.trial.identity(), **values})


_LISTS = ("ensembles", "refinements")


def read_week_5(settings: Settings, key: dict[str, Any]) -> WeekFive | None:
    """Return week 5 as it was settled for these data and trials; None if it was not."""
    from lvm_pipeline.experiments.plan import LAST_WEEK, PlannedTrial, Purpose
    from lvm_pipeline.experiments.week_five import from_identity

    base = training_config_of(settings)
    kept = files.read_json(_path(settings), remedy="delete it; week 5 is then settled again from weeks 1 to 4.")
    if kept.get("key") != key or not all(name in kept for name in _LISTS):
        return None

    def planned(options: dict[str, Any], purpose: Purpose) -> PlannedTrial:
        return PlannedTrial(week=LAST_WEEK, config=from_identity(options, base), purpose=purpose)

    return WeekFive(
        key=key,
        best=planned(kept["best"], "sweep"),
        ensembles=[planned(options, "ensemble") for options in kept["ensembles"]],
        refinements=[planned(options, "refinement") for options in kept["refinements"]],
    )


def settle_week_5(settings: Settings, key: dict[str, Any], scored: "Sequence[Scored]") -> WeekFive:
    """Settle week 5 from the scores of weeks 1 to 4, and write it."""
    from lvm_pipeline.experiments import week_five

    base = training_config_of(settings)
    found = WeekFive(key=key, best=week_five.best_of(scored).trial, ensembles=week_five.ensembles(scored, base))
    found.write(settings)
    return found


def _path(settings: Settings) -> Path:
    return settings.home / "plan" / FILE
