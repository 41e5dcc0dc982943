"""The whole lineage in one call, without Dagster."""

from collections.abc import Callable, Sequence
from typing import Any

from lvm_pipeline.lineage import data, drift, models, results
from lvm_pipeline.settings import Settings

Task = Callable[[str], Callable[..., Any]]  # description -> (done, total, note), which moves a bar


def run(settings: Settings, architectures: Sequence[str], *, task: Task) -> dict[str, Any]:
    """Take the source table to a champion; what Dagster materialises, by the same calls.

    Args:
        settings: What to use.
        architectures: What to train and score.
        task: Makes a progress bar.

    Returns:
        What the champion stage decided.

    Raises:
        LvmError: If a stage cannot do its work; what was promoted before stays.
        InvariantError: If a blocking invariant failed.
    """
    shown = task("concepts")
    concepts = data.stage_concepts(settings, progress=shown)
    shown(1, 1)
    shown = task("sequences")
    data.promote_with_sequences(settings, concepts)
    drift.check_drift(settings)
    shown(1, 1)
    for architecture in architectures:
        _train(settings, architecture, shown=task(f"trained_model {architecture}"))
        shown = task(f"evaluation_report {architecture}")
        results.evaluate_architecture(settings, architecture)
        shown(1, 1)
    shown = task("champion")
    results.build_leaderboard(settings)
    chosen = results.choose_champion(settings)
    shown(1, 1)
    return chosen


def _train(settings: Settings, architecture: str, *, shown: Callable[..., Any]) -> None:
    from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
    from lvm_pipeline.training.loop import ProgressReport

    def show(report: ProgressReport) -> None:
        shown(report.done_fraction, 1.0, report.in_words())

    staged = models.stage_model(settings, architecture, tracker=MlflowTracker(settings), progress=show)
    models.promote_model(settings, staged)
    shown(1, 1)
