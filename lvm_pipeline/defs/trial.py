"""sequences -> trial: the trials of the plan, one a partition, and jobs that run a week of them in one process."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.defs.launchers import Launcher
from lvm_pipeline.defs.launchpad import AGAIN, PresetChoice
from lvm_pipeline.defs.partitions import GPU_POOL, trial_partitions
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.errors import LvmError
from lvm_pipeline.experiments.plan import WEEKS
from lvm_pipeline.settings import Settings, with_options

CHILD = "lvm_pipeline.defs.plan_child"
KEY = dg.AssetKey("trial")


class PlanOptions(dg.Config):
    """Options of a run of the plan. Fields that are left out keep the value of their environment variable."""

    preset: PresetChoice | None = Field(  # pyright: ignore[reportInvalidTypeForm] - made of the presets that exist
        default=None, description="Named size of the architectures."
    )
    budget_seconds: float | None = Field(default=None, description="No trial is started after this time.")
    again: bool = Field(default=False, description=AGAIN)


@dg.asset(
    deps=[sequences], partitions_def=trial_partitions, pool=GPU_POOL, group_name="plan", kinds={"pytorch", "mlflow"}
)
def trial(
    context: dg.AssetExecutionContext,
    config: PlanOptions,
    settings: dg.ResourceParam[Settings],
    launcher: dg.ResourceParam[Launcher],
) -> Iterator[dg.MaterializeResult]:
    """A trial of the plan: trained, checked and scored on the validation split, tracked as an MLflow run.

    The jobs `plan_week_1` to `plan_week_5` add the partitions. A trial that is done with the same data, code and
    options is not trained again, unless `again` is set.
    """  # noqa: DOC501 - the docstring is the description in the UI
    with lvm_errors_as_failures(), stage_shown(settings, "trial", context.partition_key):
        (ended,) = run_in_child(launcher, context, settings, config, trial_ids=[context.partition_key])
        if ended["status"] != "done":
            raise LvmError(f"{ended['trial_id']} {ended['status']}: {ended['reason']}")
        version = dg.DataVersion(ended["data_version"])
        yield dg.MaterializeResult(data_version=version, metadata=metadata_of(settings, ended))


def week_job(week: int, words: str) -> dg.JobDefinition:
    @dg.op(name=f"week_{week}", pool=GPU_POOL, description="Train and score the week's trials in one process.")
    def run_week(
        context: dg.OpExecutionContext,
        config: PlanOptions,
        settings: dg.ResourceParam[Settings],
        launcher: dg.ResourceParam[Launcher],
    ) -> None:
        with lvm_errors_as_failures(), stage_shown(settings, "plan", f"week_{week}"):
            ended = run_in_child(launcher, context, settings, config, week=week)
            context.instance.add_dynamic_partitions(trial_partitions.name or "", [each["trial_id"] for each in ended])
            for each in ended:
                if each["status"] == "done":
                    context.log_event(
                        dg.AssetMaterialization(KEY, partition=each["trial_id"], metadata=metadata_of(settings, each))
                    )
                else:
                    context.log.warning(f"{each['trial_id']} {each['status']}: {each['reason']}")

    @dg.job(
        name=f"plan_week_{week}",
        description=f"Week {week} of the plan, {words}: train and score its trials one after the other in one process, "
        "and write the study report. Trials that are done are not run again.",
    )
    def plan_week() -> None:
        run_week()

    return plan_week


def run_in_child(
    launcher: Launcher,
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    settings: Settings,
    config: PlanOptions,
    *,
    week: int | None = None,
    trial_ids: Sequence[str] | None = None,
) -> Sequence[Mapping[str, Any]]:
    """Run a week, or some trials, in a child process and return how each ended.

    Raises:
        LvmError: If the child could not start, was killed or crashed. The trials that ended before are kept.
    """
    report = launcher.report_of(
        context,
        with_options(settings, {"preset": config.preset.value if config.preset else None}),
        CHILD,
        extras={"week": week, "trial_ids": trial_ids, "budget_seconds": config.budget_seconds, "again": config.again},
        what="the plan" if week is None else f"week {week} of the plan",
    )
    if report["error"] is not None:
        raise LvmError(report["error"])
    return report["outcomes"]


def metadata_of(settings: Settings, outcome: Mapping[str, Any]) -> dict[str, Any]:
    scores = outcome["scores"]
    gain = {f"gain_{name}": value for name, value in scores["gain"].items()}
    return {
        metadata.VERDICT: outcome["verdict"],
        **metadata.page(settings, settings.reports_dir / "study.html"),
        **metadata.link(outcome["mlflow_url"]),
        "trial_id": outcome["trial_id"],
        "week": outcome["week"],
        **metadata.numbers({**scores, **gain, "seconds": outcome["seconds"]}),
        "best_baseline": scores["best_baseline"],
        "options": dg.MetadataValue.json(outcome["options"]),
        "fingerprints": dg.MetadataValue.json(outcome["fingerprints"]),
        "path": dg.MetadataValue.path(outcome["path"]),
    }


plan_jobs = [week_job(week, words) for week, words in WEEKS.items()]
