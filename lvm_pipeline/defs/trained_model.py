"""sequences -> trained_model: one trial per architecture, trained in a child process that dies with its parent."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.adapters.launcher import launched
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, checked_asset, is_made, lvm_errors_as_failures
from lvm_pipeline.defs.dagster_internals import DagsterPipesExecutionError
from lvm_pipeline.defs.launchpad import TrainingOptions, given_options, settings_with
from lvm_pipeline.defs.partitions import GPU_POOL, architecture_partitions
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding
from lvm_pipeline.settings import Settings, settings_environment

INVARIANTS = lineage.INVARIANTS["trained_model"]
CHILD = "lvm_pipeline.defs.training_child"


@checked_asset(
    INVARIANTS,
    deps=[sequences],
    partitions_def=architecture_partitions,
    pool=GPU_POOL,
    group_name="models",
    kinds={"pytorch", "mlflow"},
)
def trained_model(
    context: dg.AssetExecutionContext, config: TrainingOptions, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """One trained trial: weights (safetensors) with everything that made them (JSON), tracked as an MLflow run.

    A trial that was trained before with the same data, code and options is not trained again, unless `again` is set.
    """  # noqa: DOC501 - the docstring is the description in the UI
    architecture = context.partition_key
    with lvm_errors_as_failures(), stage_shown(settings, "trained_model", architecture):
        if not is_made(context):
            yield from check_results(lineage.check_latest_model(settings, architecture), INVARIANTS, context=context)
            return
        product = train_in_child(
            context, settings_with(settings, config, given_options(context, "trained_model")), again=config.again
        )
        findings = [Finding.from_json(values) for values in product["findings"]]
        yield from check_results(findings, INVARIANTS if product["error"] is None else (), context=context)
        if product["error"] is not None:
            raise LvmError(product["error"])
        info = product["info"]
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(product["data_version"]),
            metadata={
                **metadata.link(product["mlflow_url"]),
                "trial_id": product["trial_id"],
                "was_trained_now": product["was_trained"],
                **metadata.numbers(info),
                "metrics": metadata.markdown_table(info["history"]),
                "preset": info["preset"],
                "space_id": info["space_id"],
                "fingerprints": dg.MetadataValue.json(info["fingerprints"]),
                "path": dg.MetadataValue.path(product["path"]),
            },
        )


def train_in_child(context: dg.AssetExecutionContext, settings: Settings, *, again: bool) -> Mapping[str, Any]:
    """Train in a child process and return its report: findings, and an error or the trained trial."""
    return report_of_child(context, settings, CHILD, extras={"again": again}, what=context.partition_key)


def report_of_child(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    settings: Settings,
    module: str,
    *,
    extras: Mapping[str, Any],
    what: str,
) -> Mapping[str, Any]:
    """Run a module that trains in a child process and return what it reports.

    A cancelled run interrupts the child, which closes its MLflow run. A killed parent takes the child with it. The
    MLflow run of a killed child is closed here.

    Raises:
        LvmError: If the child was killed or crashed.
    """
    client = dg.PipesSubprocessClient(env=settings_environment(settings))
    command = launched([sys.executable, "-m", module])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Dagster warns of its own inner calls
            done = client.run(context=context, command=command, extras=dict(extras))
    except DagsterPipesExecutionError as error:
        mlflow_store.close_abandoned_runs(settings)
        raise LvmError(why_child_ended(what, str(error))) from None
    (product,) = done.get_custom_messages()
    return product


def why_child_ended(architecture: str, message: str) -> str:
    """Return why a child exited without a report, from Dagster's message with its exit code."""
    was_killed = "with code -" in message
    reason = "was killed or ran out of memory" if was_killed else "crashed; its traceback is in the logs of the run"
    return f"The training of {architecture} {reason}. Train it again: it resumes from its last checkpoint."
