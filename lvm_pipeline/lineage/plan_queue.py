"""The trials of a run of the plan, in order. Refinements are proposed when their turn comes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.models import training_config_of
from lvm_pipeline.lineage.plan import not_attempted, outcome_of, planned, trials_of_weeks_1_to_4, week_5_of
from lvm_pipeline.settings import Settings
from lvm_pipeline.words import counted

if TYPE_CHECKING:
    from lvm_pipeline.experiments.plan import PlannedTrial
    from lvm_pipeline.experiments.refinement import Proposal, Refinement
    from lvm_pipeline.lineage.week_five import WeekFive


class TrialQueue:
    def __init__(self, settings: Settings, week: int | None, trial_ids: Sequence[str] | None):
        self._settings, self._week, self._trial_ids = settings, week, trial_ids
        self._week_5: WeekFive | None = None
        self._search: Refinement | None = None
        self._lock = FileLock(settings.home / "plan" / ".search.lock", timeout=0)
        self._waiting = self._chosen()

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        self._lock.release()

    def known(self) -> "PlannedTrial | None":
        """Return the trial whose turn it is; None if it is a refinement that was not proposed yet."""
        return self._waiting[0]

    def start(self) -> "tuple[PlannedTrial, Proposal | None]":
        """Return the trial whose turn it is, and Optuna's proposal if it is a refinement."""
        from lvm_pipeline.experiments.week_five import refined_options

        trial = self._waiting[0]
        if self._week_5 is None or (trial is not None and trial.purpose != "refinement"):
            assert trial is not None
            return trial, None
        search = self._opened(self._week_5)
        proposal = search.propose() if trial is None else search.propose_again(refined_options(trial))
        return self._week_5.take(self._settings, proposal), proposal

    def end(self) -> None:
        """Go to the next trial; after weeks 1 to 4 this is the first of week 5."""
        del self._waiting[0]
        is_whole_plan = self._week is None and self._trial_ids is None
        if not self._waiting and is_whole_plan and self._week_5 is None:
            self._waiting = self._of_week_5()

    def _opened(self, week_5: "WeekFive") -> "Refinement":
        if self._search is None:
            try:
                self._lock.acquire()
            except Timeout:
                raise LvmError("Another process runs week 5 of the plan now; wait for it.") from None
            self._search = week_5.search(self._settings)
        return self._search

    def _chosen(self) -> "list[PlannedTrial | None]":
        from lvm_pipeline.experiments.plan import LAST_WEEK, of_week

        settings = self._settings
        if self._trial_ids is not None:
            known = {trial.trial_id: trial for trial in planned(settings)}
            return [known.get(trial_id) or _run_before(settings, trial_id) for trial_id in self._trial_ids]
        if self._week == LAST_WEEK:
            return self._of_week_5()
        return list(of_week(trials_of_weeks_1_to_4(settings), self._week))

    def _of_week_5(self) -> "list[PlannedTrial | None]":
        from lvm_pipeline.experiments.plan import NUM_REFINEMENTS

        trials = trials_of_weeks_1_to_4(self._settings)
        self._week_5 = week_5_of(self._settings, trials)
        if self._week_5 is None:
            num_missing = len(not_attempted(self._settings, trials))
            problem = "none of their trials is done on these data; `lvm plan list` says why"
            if num_missing:
                problem = (
                    f"{counted(num_missing, 'of their trials has', 'of their trials have')} "
                    "not been run on these data; run them with `lvm plan run`"
                )
            raise LvmError(f"Week 5 refines the best of weeks 1 to 4, and {problem}.")
        proposed = self._week_5.refinements
        return [*self._week_5.ensembles, *proposed, *[None] * (NUM_REFINEMENTS - len(proposed))]


def _run_before(settings: Settings, trial_id: str) -> "PlannedTrial":
    """Return a trial that an earlier run of the plan recorded, perhaps at another preset."""
    from lvm_pipeline.experiments.plan import PlannedTrial
    from lvm_pipeline.experiments.week_five import from_identity

    outcome = outcome_of(settings, trial_id)
    if outcome is None:
        raise LvmError(f"The plan has no trial {trial_id!r} with these settings; `lvm plan list` lists them.")
    config = from_identity(outcome.options, training_config_of(settings))
    return PlannedTrial(week=outcome.week, config=config, purpose=outcome.purpose)
