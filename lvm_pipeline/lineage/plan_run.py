"""Run trials of the plan one after the other in one process."""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lvm_pipeline.errors import LvmError, ServiceError
from lvm_pipeline.files import FULL_DISK
from lvm_pipeline.lineage.ensembles import make_ensemble
from lvm_pipeline.lineage.models import TrainedTrial, promoted_data, train_trial
from lvm_pipeline.lineage.plan import PresentData, code_version_of, is_current, outcome_of
from lvm_pipeline.lineage.plan_queue import TrialQueue
from lvm_pipeline.lineage.tracked import describe_trial
from lvm_pipeline.lineage.trials import TrialFolder, trial_folder, write_trial
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.progress import StoppedError

if TYPE_CHECKING:
    from lvm_pipeline.experiments.plan import PlannedTrial
    from lvm_pipeline.experiments.refinement import Proposal
    from lvm_pipeline.experiments.trial_scores import Outcome, TrialScores
    from lvm_pipeline.training.data import TrainingData
    from lvm_pipeline.training.progress import OnProgress, ProgressReport
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


def plan_tracker(settings: Settings, week: int) -> "Tracker":
    """Return a tracker for one trial of a week; a batch run leaves out system metrics, which cost a second a trial."""
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(settings, experiment=f"plan week {week}", system_metrics=False)


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
        again: Also run trials that are done, and start from the beginning if a checkpoint cannot be resumed.

    Raises:
        ServiceError: At the first trial, if something that all trials need is missing, such as the MLflow store.
        LvmError: If there is no such week or trial, the data cannot be used, or week 5 is asked for too early.
    """
    from lvm_pipeline.experiments.plan import check_week
    from lvm_pipeline.training.rescore import RescoringProcess

    check_week(week)
    started = time.monotonic()
    data = promoted_data(settings)
    outcomes: list[Outcome] = []
    num_new = 0
    with RescoringProcess(), contextlib.closing(TrialQueue(settings, week, trial_ids)) as queue:
        batch = _Batch(settings, data, tracker_for=tracker_for, progress=progress, again=again)
        while len(queue):
            is_over = budget_seconds is not None and time.monotonic() - started >= budget_seconds
            trial = queue.known()
            outcome = None if again or trial is None else _finished(settings, trial, data)
            if outcome is None and is_over:
                break
            is_new = outcome is None
            if outcome is None:
                trial, proposal = queue.start()
                outcome = batch.run(trial, proposal)
            queue.end()
            outcomes.append(outcome)
            num_new += is_new
            if on_trial is not None:
                on_trial(outcome, len(outcomes), len(outcomes) + len(queue), is_new=is_new)
    return PlanRun(outcomes=tuple(outcomes), num_new=num_new, num_left=len(queue))


class _Batch:
    """Runs one trial after the other on data that stay loaded."""

    def __init__(
        self,
        settings: Settings,
        data: "TrainingData",
        *,
        tracker_for: "Callable[[int], Tracker | None]",
        progress: "OnProgress | None",
        again: bool,
    ):
        self._settings, self._data = settings, data
        self._tracker_for, self._progress, self._again = tracker_for, progress, again

    def run(self, trial: "PlannedTrial", proposal: "Proposal | None" = None) -> "Outcome":
        """Train and score a trial, and record how it ended; report it to Optuna if Optuna proposed the trial."""
        from lvm_pipeline.experiments.trial_scores import Outcome, write_outcome
        from lvm_pipeline.training.strategies import content_read

        folder = trial_folder(self._settings, trial.trial_id)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_trial(folder, trial.config.trial)
        started = time.monotonic()
        ended = self._attempt(trial, proposal)
        if proposal is not None:
            scores = ended.get("scores")
            proposal.report(cosine=scores and scores.cosine, was_stopped=ended["status"] == "stopped")
        outcome = Outcome(
            trial_id=trial.trial_id,
            week=trial.week,
            purpose=trial.purpose,
            options=trial.config.trial.identity(),
            fingerprints=self._data.fingerprints,
            content_fingerprint=content_read(trial.config.trial, self._data.concepts),
            code_version=code_version_of(trial.config),
            seconds=time.monotonic() - started,
            **ended,
        )
        write_outcome(folder.path, outcome)
        return outcome

    def _attempt(self, trial: "PlannedTrial", proposal: "Proposal | None") -> dict[str, Any]:
        """Return status, reason and scores of a trial."""
        from lvm_pipeline.training.tracking import Tracker

        tracker = self._tracker_for(trial.week) or Tracker()
        try:
            return {"status": "done", "reason": None, **self._trained(trial, tracker, proposal)}
        except StoppedError as stopped:
            shutil.rmtree(trial_folder(self._settings, trial.trial_id).checkpoint_dir, ignore_errors=True)
            return {"status": "stopped", "reason": str(stopped)}
        except ServiceError:  # the next trial would fail, too
            raise
        except LvmError as error:
            return {"status": "failed" if tracker.has_started else "refused", "reason": str(error)}
        except Exception as error:  # whatever breaks a trial is recorded, and the plan goes on
            if isinstance(error, OSError) and error.errno in FULL_DISK:
                raise ServiceError(f"The disk of {self._settings.trials_dir} is full; free space and go on.") from None
            logger.exception("Trial %s failed", trial.trial_id)
            return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}

    def _trained(self, trial: "PlannedTrial", tracker: "Tracker", proposal: "Proposal | None") -> dict[str, Any]:
        started = time.monotonic()
        if trial.purpose == "ensemble":
            trained = self._combined(trial, tracker)
        else:
            trained = self._trained_alone(trial, tracker, watchers(self._progress, proposal and proposal.on_progress))
        overhead = time.monotonic() - started - trained.info.training_seconds
        scores = self._scores(trained.folder, trial)
        describe_trial(self._settings, trained.folder, scores.verdict)
        return {
            "scores": scores,
            "overhead_seconds": overhead if trained.was_trained else None,
            "mlflow_url": trained.mlflow_url,
        }

    def _trained_alone(self, trial: "PlannedTrial", tracker: "Tracker", progress: "OnProgress | None") -> TrainedTrial:
        return train_trial(
            self._settings,
            trial.config,
            tracker=tracker,
            progress=progress,
            again=self._again,
            data=self._data,
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
            cache_dir=self._settings.baselines_dir,
        )


def watchers(*each: "OnProgress | None") -> "OnProgress":
    """Return one callback that calls all of them."""

    def on_progress(report: "ProgressReport", /) -> None:
        for watcher in each:
            if watcher is not None:
                watcher(report)

    return on_progress


def _finished(settings: Settings, trial: "PlannedTrial", data: "TrainingData") -> "Outcome | None":
    """Return the outcome of a trial that need not be run: done or stopped with these data and this code."""
    outcome = outcome_of(settings, trial.trial_id)
    present = PresentData(fingerprints=data.fingerprints, concepts=data.concepts)
    if outcome is None or not is_current(outcome, trial, present):
        return None
    if outcome.status == "stopped":
        return outcome
    return outcome if outcome.status == "done" and trial_folder(settings, trial.trial_id).info() is not None else None
