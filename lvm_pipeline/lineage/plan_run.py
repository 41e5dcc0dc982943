"""Run trials of the plan one after the other in one process."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.ensembles import make_ensemble
from lvm_pipeline.lineage.models import TrainedTrial, train_trial, training_config_of
from lvm_pipeline.lineage.plan import code_version_of, is_current, not_attempted, outcome_of, planned
from lvm_pipeline.lineage.trials import TrialFolder, trial_folder, write_trial
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.experiments.plan import PlannedTrial
    from lvm_pipeline.experiments.trial_scores import Outcome, TrialScores
    from lvm_pipeline.training.data import TrainingData
    from lvm_pipeline.training.progress import OnProgress
    from lvm_pipeline.training.rescore import Rescorer
    from lvm_pipeline.training.tracking import Tracker

logger = logging.getLogger(__name__)


class OnTrial(Protocol):
    """Called when a trial ends, with how many of how many have ended."""

    def __call__(self, outcome: "Outcome", done: int, total: int, /, *, is_new: bool) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PlanRun:
    """What one run of the plan did: outcomes in order, how many of them are new, and how many trials are left."""

    outcomes: "tuple[Outcome, ...]"
    num_new: int
    num_left: int

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)


def study_name(week: int) -> str:
    """Return the name of the MLflow experiment of a week: its trials are one study."""
    return f"plan week {week}"


def plan_tracker(settings: Settings, week: int) -> "Tracker":
    """Return a tracker for one trial of a week; a batch run leaves out system metrics, which cost a second a trial."""
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(settings, experiment=study_name(week), system_metrics=False)


def run_plan(
    settings: Settings,
    *,
    week: int | None = None,
    trial_ids: Sequence[str] | None = None,
    budget_seconds: float | None = None,
    tracker_for: "Callable[[int], Tracker | None]",
    on_trial: OnTrial | None = None,
    progress: "OnProgress | None" = None,
    again: bool = False,
) -> PlanRun:
    """Train and score trials of the plan one after the other in this process, the data loaded once.

    A trial that is done with the same data, code and options is not run again. A trial that was interrupted resumes
    from its checkpoint. A trial that fails or is refused is recorded and the plan goes on; the next run tries it again.

    Args:
        settings: Where data and trials are, and the preset and options that the plan starts from.
        week: Week to run; None: all of them, week 5 last.
        trial_ids: Trials to run, of any week; None: all of the week.
        budget_seconds: No trial is started after this time; None: no limit.
        tracker_for: Returns the tracker of a trial, given its week.
        on_trial: Called when a trial ends.
        progress: Called every few steps of a training.
        again: Also run trials that are done, and start anew where a checkpoint cannot be resumed.

    Raises:
        LvmError: If there is no such week or trial, the data cannot be used, or week 5 is asked for too early.
    """
    from lvm_pipeline.experiments.plan import LAST_WEEK, check_week
    from lvm_pipeline.training.data import load_training_data
    from lvm_pipeline.training.rescore import RescoringProcess

    check_week(week)
    started = time.monotonic()
    tables = (settings.concepts_path, settings.sequences_path, settings.vectors_dir)
    data = load_training_data(*tables, encoders_dir=settings.encoders_dir, decoders_dir=settings.decoders_dir)
    outcomes: list[Outcome] = []
    num_new = 0
    with RescoringProcess() as rescorer:
        batch = _Batch(settings, data, rescorer, tracker_for=tracker_for, progress=progress, again=again)
        waiting = _chosen(settings, week, trial_ids)
        while waiting:
            trial = waiting.pop(0)
            finished = None if again else _finished(settings, trial, data)
            if finished is None and budget_seconds is not None and time.monotonic() - started >= budget_seconds:
                waiting.insert(0, trial)
                break
            outcome = finished or batch.run(trial)
            outcomes.append(outcome)
            num_new += finished is None
            if not waiting and week is None and trial_ids is None and trial.week != LAST_WEEK:
                waiting = _chosen(settings, LAST_WEEK, None)
            if on_trial is not None:
                on_trial(outcome, len(outcomes), len(outcomes) + len(waiting), is_new=finished is None)
    return PlanRun(outcomes=tuple(outcomes), num_new=num_new, num_left=len(waiting))


def _chosen(settings: Settings, week: int | None, trial_ids: Sequence[str] | None) -> "list[PlannedTrial]":
    from lvm_pipeline.experiments.plan import LAST_WEEK, of_week

    trials = planned(settings)
    if trial_ids is not None:
        known = {trial.trial_id: trial for trial in trials}
        return [known.get(trial_id) or _run_before(settings, trial_id) for trial_id in trial_ids]
    if week == LAST_WEEK and not of_week(trials, LAST_WEEK):
        num_missing = len(not_attempted(settings, trials))
        raise LvmError(
            f"Week 5 refines the best of weeks 1 to 4, and {num_missing} of their trials have not been run on these "
            "data; run them first with `lvm plan run`."
        )
    return of_week([trial for trial in trials if week is not None or trial.week != LAST_WEEK], week)


def _run_before(settings: Settings, trial_id: str) -> "PlannedTrial":
    """Return a trial that an earlier run of the plan recorded, perhaps at another preset."""
    from lvm_pipeline.experiments.plan import PlannedTrial
    from lvm_pipeline.experiments.week_five import from_identity

    outcome = outcome_of(settings, trial_id)
    if outcome is None:
        raise LvmError(f"The plan has no trial {trial_id!r} with these settings; `lvm plan list` lists them.")
    config = from_identity(outcome.options, training_config_of(settings))
    return PlannedTrial(week=outcome.week, config=config, purpose=outcome.purpose)


class _Batch:
    """Runs one trial after the other on data that stay loaded."""

    def __init__(
        self,
        settings: Settings,
        data: "TrainingData",
        rescorer: "Rescorer",
        *,
        tracker_for: "Callable[[int], Tracker | None]",
        progress: "OnProgress | None",
        again: bool,
    ):
        self._settings, self._data, self._rescorer = settings, data, rescorer
        self._tracker_for, self._progress, self._again = tracker_for, progress, again

    def run(self, trial: "PlannedTrial") -> "Outcome":
        """Train and score a trial, and record how it ended."""
        from lvm_pipeline.experiments.trial_scores import Outcome, write_outcome

        folder = trial_folder(self._settings, trial.trial_id)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_trial(folder, trial.config.trial)
        started = time.monotonic()
        ended = self._attempt(trial)
        outcome = Outcome(
            trial_id=trial.trial_id,
            week=trial.week,
            purpose=trial.purpose,
            options=trial.config.trial.identity(),
            fingerprints=self._data.fingerprints,
            code_version=code_version_of(trial.config),
            seconds=time.monotonic() - started,
            **ended,
        )
        write_outcome(folder.path, outcome)
        return outcome

    def _attempt(self, trial: "PlannedTrial") -> dict[str, Any]:
        """Return status, reason and scores of a trial."""
        from lvm_pipeline.training.tracking import Tracker

        tracker = self._tracker_for(trial.week) or Tracker()
        try:
            return {"status": "done", "reason": None, **self._trained(trial, tracker)}
        except LvmError as error:
            return {"status": "failed" if tracker.has_started else "refused", "reason": str(error)}
        except Exception as error:  # whatever breaks a trial is recorded, and the plan goes on
            logger.exception("Trial %s failed", trial.trial_id)
            return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}

    def _trained(self, trial: "PlannedTrial", tracker: "Tracker") -> dict[str, Any]:
        started = time.monotonic()
        trained = (self._combined if trial.purpose == "ensemble" else self._trained_alone)(trial, tracker)
        overhead = time.monotonic() - started - trained.info.training_seconds
        return {
            "scores": self._scores(trained.folder, trial),
            "overhead_seconds": overhead if trained.was_trained else None,
            "mlflow_url": trained.mlflow_url,
        }

    def _trained_alone(self, trial: "PlannedTrial", tracker: "Tracker") -> TrainedTrial:
        return train_trial(
            self._settings,
            trial.config,
            tracker=tracker,
            progress=self._progress,
            again=self._again,
            data=self._data,
            rescorer=self._rescorer,
        )

    def _combined(self, trial: "PlannedTrial", tracker: "Tracker") -> TrainedTrial:
        return make_ensemble(
            self._settings,
            trial.config.model["members"],
            name=trial.config.preset,
            weighting=trial.config.model["weights"],
            tracker=tracker,
            again=self._again,
        )

    def _scores(self, folder: TrialFolder, trial: "PlannedTrial") -> "TrialScores":
        from lvm_pipeline.experiments.trial_scores import score_trial

        return score_trial(
            folder.model_dir,
            self._data,
            device=trial.config.device,
            num_threads=trial.config.num_threads,
            cache_dir=self._settings.data_dir / "baselines",
        )


def _finished(settings: Settings, trial: "PlannedTrial", data: "TrainingData") -> "Outcome | None":
    """Return the outcome of a trial that need not be run: done with these data and this code, its model still there."""
    outcome = outcome_of(settings, trial.trial_id)
    if outcome is None or outcome.status != "done" or not is_current(outcome, trial, data.fingerprints):
        return None
    return outcome if trial_folder(settings, trial.trial_id).info() is not None else None
