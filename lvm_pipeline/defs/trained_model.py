"""sequences -> trained_model: one trial per architecture, trained where the launcher runs it."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, checked_asset, checked_trial, is_made, lvm_errors_as_failures
from lvm_pipeline.defs.launchers import Launcher, train_in_process
from lvm_pipeline.defs.launchpad import TrainingOptions, given_options, settings_with
from lvm_pipeline.defs.partitions import GPU_POOL, architecture_partitions
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding
from lvm_pipeline.settings import Settings

INVARIANTS = lineage.INVARIANTS["trained_model"]
CHILD = "lvm_pipeline.defs.training_child"
FIGURES = ("score", "start_score", "best_epoch", "num_params", "training_seconds")


@checked_asset(
    INVARIANTS,
    deps=[sequences],
    partitions_def=architecture_partitions,
    pool=GPU_POOL,
    group_name="models",
    kinds={"pytorch", "mlflow"},
)
def trained_model(
    context: dg.AssetExecutionContext,
    config: TrainingOptions,
    settings: dg.ResourceParam[Settings],
    launcher: dg.ResourceParam[Launcher],
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """One trained trial: weights (safetensors) and their full provenance (JSON), tracked as an MLflow run.

    A trial that was trained before with the same data, code and options is not trained again, unless `again` is set.
    """  # noqa: DOC501 - the docstring is the description in the UI
    architecture = context.partition_key
    with lvm_errors_as_failures(), stage_shown(settings, "trained_model", architecture):
        if not is_made(context):
            folder = checked_trial(context, settings, architecture)
            yield from check_results(lineage.check_model(settings, folder), INVARIANTS, context=context)
            return
        chosen = settings_with(settings, config, given_options(context, "trained_model"))
        product = train_in_child(launcher, context, chosen, again=config.again)
        findings = [Finding.from_json(values) for values in product["findings"]]
        yield from check_results(findings, INVARIANTS if product["error"] is None else (), context=context)
        if product["error"] is not None:
            raise LvmError(product["error"])
        info = product["info"]
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(product["data_version"]),
            metadata={
                metadata.VERDICT: verdict(info),
                **metadata.link(product["mlflow_url"]),
                "trial_id": product["trial_id"],
                "was_trained_now": product["was_trained"],
                **metadata.numbers({name: info[name] for name in FIGURES}),
                "metrics": metadata.markdown_table(info["history"]),
                "preset": info["preset"],
                **metadata.folded(
                    {**metadata.numbers(info), "space_id": info["space_id"], "fingerprints": info["fingerprints"]}
                ),
                "path": dg.MetadataValue.path(product["path"]),
            },
        )


def verdict(info: Mapping[str, Any]) -> str:
    metric = info["selection_metric"].replace("_", " ")
    return (
        f"Validation {metric} {info['score']:.4f} after epoch {info['best_epoch']}, "
        f"{info['start_score']:.4f} before the first step; {info['training_seconds']:.0f} s on {info['trained_on']}."
    )


def train_in_child(
    launcher: Launcher, context: dg.AssetExecutionContext, settings: Settings, *, again: bool
) -> Mapping[str, Any]:
    """Train, in a child process unless the launcher is `inprocess`, and return the report.

    It holds findings, and an error or the trained trial.
    """
    if settings.launcher == "inprocess":
        return train_in_process(context, settings, again=again)
    return launcher.report_of(context, settings, CHILD, extras={"again": again}, what=context.partition_key)
