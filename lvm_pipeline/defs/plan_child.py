"""The process that runs a week of the plan, or some of its trials, for the jobs `plan_week_...` and the asset `trial`.

    python -m lvm_pipeline.defs.plan_child

Dagster Pipes connects it to its parent's run, and it reads its settings from the environment. It reports once, at the
end; each trial is recorded in its folder when it ends.
"""

import signal
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dagster_pipes import PipesContext, open_dagster_pipes

from lvm_pipeline import lineage
from lvm_pipeline.defs.progress import ProgressFile
from lvm_pipeline.defs.training_child import interrupt
from lvm_pipeline.errors import LvmError
from lvm_pipeline.imports import end_without_search
from lvm_pipeline.settings import Settings, load_settings
from lvm_pipeline.words import counted

if TYPE_CHECKING:
    from lvm_pipeline.experiments.trial_scores import Outcome


def main() -> None:
    signal.signal(signal.SIGTERM, interrupt)
    end_without_search()
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message(report_of(pipes))


def report_of(pipes: PipesContext) -> dict[str, Any]:
    """Run the trials and return how each ended; after an error, its sentence."""
    settings = load_settings()
    week = pipes.get_extra("week")
    progress = ProgressFile(settings, "plan", f"week_{week}") if week else None

    def on_trial(outcome: "Outcome", done: int, total: int, *, is_new: bool) -> None:
        cosine = "" if outcome.scores is None else f", cosine {outcome.scores.cosine:.4f}"
        pipes.log.info(f"{done}/{total} {outcome.trial_id} {outcome.status}{cosine}")
        if progress is not None:
            progress.report(done / total, f"{done} of {counted(total, 'trial')}")

    try:
        ended = lineage.run_plan(
            settings,
            week=week,
            trial_ids=pipes.get_extra("trial_ids"),
            budget_seconds=pipes.get_extra("budget_seconds"),
            tracker_for=lambda number: lineage.plan_tracker(settings, number),
            on_trial=on_trial,
            again=bool(pipes.get_extra("again")),
        )
        lineage.write_study(settings)
    except LvmError as error:
        return {"error": str(error)}
    return {"error": None, "outcomes": [as_json(settings, outcome) for outcome in ended.outcomes]}


def as_json(settings: Settings, outcome: "Outcome") -> dict[str, Any]:
    """Return an outcome with the path and the hash of its model."""
    from lvm_pipeline.training.trained_model import weights_fingerprint

    values: dict[str, Any] = asdict(outcome)
    if outcome.scores is not None:
        values["verdict"] = outcome.scores.verdict
    folder = settings.trials_dir / outcome.trial_id
    if outcome.status == "done":
        values["data_version"] = weights_fingerprint(folder / "model")
    return {**values, "path": str(folder)}


if __name__ == "__main__":
    main()
