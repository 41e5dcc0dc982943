"""What the demo adds to the lineage: trials of the plan, a trial with a strategy, and an ensemble."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.lineage import ensembles, models, plan, plan_run, results
from lvm_pipeline.lineage.trials import latest_trial
from lvm_pipeline.lineage.whole import Task, training_shown
from lvm_pipeline.settings import Settings, with_options

if TYPE_CHECKING:
    from lvm_pipeline.training.tracking import Tracker

STRATEGY = "auxiliary_targets"
PLANNED_WEEK, PLANNED_PRESET, PLANNED_EPOCHS = 1, "smoke", 2
PLANNED_ARCHITECTURES = ("lstm", "gru")  # the first trial of each
MOST_MEMBERS = 5
# With 859 train articles a width of 32 or 96 scores as high as 512, in half the time, and later epochs add 0.001.
SIZE = {"preset": "smoke", "epochs": 5}


def sized_for_demo(settings: Settings) -> Settings:
    """Return the settings with the demo's preset and epochs, unless a preset is set; then they are as they were."""
    if "preset" in settings.model_fields_set:
        return settings
    return with_options(
        settings, {name: value for name, value in SIZE.items() if name not in settings.model_fields_set}
    )


@dataclass
class DemoExperiments:
    """Trials that are trained before those of the lineage, so that the latest of an architecture is a plain one."""

    settings: Settings
    architectures: Sequence[str]  # those of the lineage; the first is also trained with the strategy
    task: Task  # makes a progress bar
    # returns the tracker of a trial, given its week of the plan, or None if it is not part of the plan
    tracker_for: "Callable[[int | None], Tracker | None]"
    study_page: Path | None = None  # the study report of the plan, once it is made
    _trial_ids: list[str] = field(default_factory=list)

    def before_training(self) -> None:
        """Run the first trials of week 1 at their smallest, write the study report, and train with the strategy.

        Raises:
            LvmError: If the data cannot be used or the training fails.
        """
        self._run_first_planned()
        self._train_with_strategy(self.architectures[0])

    def before_choice(self) -> None:
        """Combine the latest trials of the architectures and that of the strategy into an ensemble, and score it.

        Raises:
            LvmError: If they cannot be combined.
        """
        shown = self.task("ensemble")
        latest = [latest_trial(self.settings, architecture).trial_id for architecture in self.architectures]
        members = list(dict.fromkeys([*self._trial_ids, *latest]))[:MOST_MEMBERS]
        made = ensembles.make_ensemble(self.settings, members, tracker=self.tracker_for(None))
        results.evaluate_trial(self.settings, made.folder)
        shown(1, 1)

    def _run_first_planned(self) -> None:
        epochs = min(PLANNED_EPOCHS, self.settings.epochs)
        small = with_options(self.settings, {"preset": PLANNED_PRESET, "epochs": epochs})
        trials = [trial for trial in plan.planned(small) if trial.week == PLANNED_WEEK]
        first = [next(each for each in trials if each.config.architecture == name) for name in PLANNED_ARCHITECTURES]
        shown = self.task(f"plan, week {PLANNED_WEEK}, preset {PLANNED_PRESET}")
        plan_run.run_plan(
            small,
            trial_ids=[trial.trial_id for trial in first],
            tracker_for=self.tracker_for,
            on_trial=lambda outcome, done, total, *, is_new: shown(done, total),
        )
        _, (self.study_page, *_) = plan.write_study(small)

    def _train_with_strategy(self, architecture: str) -> None:
        shown = self.task(f"trained_model {architecture} {STRATEGY}")
        config = models.training_config_of(with_options(self.settings, {"strategy": STRATEGY}), architecture)
        tracker, progress = self.tracker_for(None), training_shown(shown)
        trained = models.train_trial(self.settings, config, tracker=tracker, progress=progress)
        results.evaluate_trial(self.settings, trained.folder)
        self._trial_ids.append(trained.folder.trial_id)
        shown(1, 1)
