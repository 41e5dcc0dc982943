"""The whole lineage in one call, without Dagster."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lvm_pipeline.lineage import champion, data, drift, models, results
from lvm_pipeline.lineage.data_lock import data_locked
from lvm_pipeline.lineage.trials import trial_folder
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from lvm_pipeline.training.progress import OnProgress
    from lvm_pipeline.training.rescore import RescoringProcess

Shown = Callable[..., Any]  # moves a progress bar: (done, total, note)
Task = Callable[[str], Shown]  # makes a progress bar with a description


def run(settings: Settings, architectures: Sequence[str], *, task: Task, again: bool = False) -> dict[str, Any]:
    """Run every stage from the source table to the champion, by the calls that Dagster makes; return the decision.

    `task` makes a progress bar. With `again`, trials that were trained before with the same data, code and options are
    trained, too.

    Raises:
        LvmError: If a stage cannot do its work; what was promoted before stays.
        InvariantError: If a blocking invariant failed.
    """
    from lvm_pipeline.training.rescore import RescoringProcess

    with RescoringProcess() as rescoring:
        shown = task("concepts")
        start_ahead = functools.cache(lambda: _start_ahead(settings, architectures, rescoring, again=again))
        with data_locked(settings):
            concepts = data.stage_concepts(settings, progress=_after(start_ahead, until_over(shown)))
            shown(1, 1, concepts.extraction_in_words())
            shown = task("sequences")
            data.promote_with_sequences(settings, concepts)
        drift.check_drift(settings)
        shown(1, 1)
        for architecture in architectures:
            shown = task(f"trained_model {architecture}")
            _train(settings, architecture, again=again, shown=shown)
            shown = task(f"evaluation_report {architecture}")
            results.evaluate_architecture(settings, architecture)
            shown(1, 1)
    shown = task("champion")
    results.build_leaderboard(settings)
    chosen = champion.choose_champion(settings)
    shown(1, 1)
    return chosen


def _start_ahead(
    settings: Settings, architectures: Sequence[str], rescoring: "RescoringProcess", *, again: bool
) -> None:
    """Start what the first training would wait for, if there will be one: concepts and sequences leave a core idle."""
    from lvm_pipeline.adapters.mlflow_store import open_ahead

    trials = (models.training_config_of(settings, architecture).trial for architecture in architectures)
    if again or any(not trial_folder(settings, trial.trial_id).model_dir.exists() for trial in trials):
        open_ahead(settings)
        rescoring.start()


def _after(start: Callable[[], None], shown: Shown) -> Shown:
    """Return a progress callback that calls `start` first."""

    def show(*progress: Any) -> None:
        start()
        shown(*progress)

    return show


def until_over(shown: Shown) -> Shown:
    """Return a progress callback that stops short of the end: a stage still checks what it made."""
    return lambda done, total, note="": shown(min(done / total if total else 0.0, 0.999), 1.0, note)


def training_shown(shown: Shown) -> "OnProgress":
    """Return a progress callback of a training, which also stops short of the end."""
    show = until_over(shown)
    return lambda report: show(report.done_fraction, 1.0, report.in_words())


def _train(settings: Settings, architecture: str, *, again: bool, shown: Shown) -> None:
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker

    config, progress = models.training_config_of(settings, architecture), training_shown(shown)
    trained = models.train_trial(settings, config, tracker=MlflowTracker(settings), progress=progress, again=again)
    score = f"validation {trained.info.selection_metric} {trained.info.score:.4f}"
    shown(1, 1, score if trained.was_trained else f"{score}, trained before, nothing changed")
