"""Refinement of the best config by Optuna: a TPE sampler proposes options, a median pruner stops poor trainings early.

The Optuna study is kept in a database, so an interrupted search continues where it stopped.

Source: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lvm_pipeline.training.progress import ProgressReport, StoppedError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution, FloatDistribution

NUM_RANDOM = 4  # trials drawn at random before the sampler learns from scores, and before any training is stopped
NUM_WARMUP_EPOCHS = 2  # after which a training can be stopped
SAMPLER = f"TPE after {NUM_RANDOM} random trials"
PRUNER = f"worse than the median of earlier trials after epoch {NUM_WARMUP_EPOCHS} or later"
DIGITS = 3  # of a proposed value


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A training option and the range that is searched; relative ranges are factors of the best config's value."""

    option: str
    low: float
    high: float
    is_log: bool = True
    is_relative: bool = False

    def distribution(self, best: float) -> "FloatDistribution":
        from optuna.distributions import FloatDistribution

        factor = best if self.is_relative else 1.0
        return FloatDistribution(_rounded(self.low * factor), _rounded(self.high * factor), log=self.is_log)


AXES = (
    Axis(option="learning_rate", low=1 / 3, high=3.0, is_relative=True),
    Axis(option="correction_learning_rate_factor", low=0.1, high=1.0),
    Axis(option="weight_decay", low=1e-3, high=0.1),
    Axis(option="model.dropout", low=0.0, high=0.6, is_log=False),
)


class Proposal:
    """Options that Optuna proposes for one trial; reports the trial's scores to Optuna."""

    def __init__(self, study: "Study", trial: "Trial"):
        self._study, self._trial, self._last_epoch = study, trial, 0
        self.options = {name: _rounded(value) for name, value in trial.params.items()}

    def on_progress(self, report: ProgressReport, /) -> None:
        """Report the best score so far after each epoch.

        Raises:
            StoppedError: If it is worse than the median of earlier trials at this epoch.
        """
        from lvm_pipeline.training.predictions import selection_metric

        epoch = report.epochs_validated
        if epoch <= self._last_epoch:
            return
        self._last_epoch = epoch
        sign = selection_metric(report.metric_name).sign  # the study maximises
        self._trial.report(sign * report.best_score, step=epoch)
        if self._trial.should_prune():
            raise StoppedError(
                f"after epoch {epoch} its {report.metric_name} of {report.best_score:.4f} was worse than the "
                "median of earlier trials"
            )

    def report(self, *, cosine: float | None, was_stopped: bool) -> None:
        """Report how the trial ended: its validation cosine, or else whether it was stopped or failed."""
        from optuna.trial import TrialState

        if cosine is not None:
            self._study.tell(self._trial, cosine)
        else:
            self._study.tell(self._trial, state=TrialState.PRUNED if was_stopped else TrialState.FAIL)


class Refinement:
    def __init__(self, storage: str, name: str, *, training: Mapping[str, Any], seed: int = 0):
        """Begin or continue the search.

        Args:
            storage: SQLAlchemy URL of the database that keeps it.
            name: Its name; an existing search of this name is continued.
            training: Settled training options of the best config, the middle of relative ranges.
            seed: Of the sampler.
        """
        from optuna.trial import TrialState

        self._study = _study(storage, name, seed=seed)
        self._axes: dict[str, BaseDistribution] = {
            axis.option: axis.distribution(float(training.get(axis.option, 1.0))) for axis in AXES
        }
        for interrupted in self._study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)):
            self._study.tell(interrupted.number, state=TrialState.FAIL)  # see `propose_again`

    def propose(self) -> Proposal:
        """Return new options to try."""
        return Proposal(self._study, self._study.ask(self._axes))

    def propose_again(self, options: Mapping[str, float]) -> Proposal:
        """Return options that were proposed before, for a trial that was interrupted or failed."""
        self._study.enqueue_trial(dict(options))
        return self.propose()


def _study(storage: str, name: str, *, seed: int) -> "Study":
    import optuna
    from optuna.pruners import MedianPruner
    from optuna.samplers import TPESampler

    optuna.logging.set_verbosity(logging.WARNING)
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=TPESampler(n_startup_trials=NUM_RANDOM, seed=seed % 2**32),  # NumPy takes no larger one
        pruner=MedianPruner(n_startup_trials=NUM_RANDOM, n_warmup_steps=NUM_WARMUP_EPOCHS),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
