"""sequences -> trained_model: one training for each architecture, in a child process that dies with its parent."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.adapters.launcher import launched
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import check_results, check_specs, lvm_errors_as_failures
from lvm_pipeline.defs.partitions import GPU_POOL, architecture_partitions
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.resources import settings_environment
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Finding
from lvm_pipeline.settings import Settings, load_settings

INVARIANTS = lineage.INVARIANTS["trained_model"]
CHILD = "lvm_pipeline.defs.training_child"


class TrainingOptions(dg.Config):
    """What this run does otherwise than the settings say; what is left out stays as it is there."""

    preset: str | None = None
    training_mode: str | None = None  # articles or windows
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    objective: str | None = None  # a sum such as `cosine + 0.1 mse`
    seed: int | None = None
    device: str | None = None

    def applied_to(self, settings: Settings) -> Settings:
        """Return the settings with these options in them, checked as if they came from the environment."""
        own = {name: value for name, value in self.model_dump().items() if value is not None}
        return load_settings(**{**dict(settings), **own}) if own else settings


@dg.asset(
    deps=[sequences],
    partitions_def=architecture_partitions,
    check_specs=check_specs("trained_model", INVARIANTS, partitions_def=architecture_partitions),
    pool=GPU_POOL,
    group_name="models",
    kinds={"pytorch", "mlflow"},
)
def trained_model(
    context: dg.AssetExecutionContext, config: TrainingOptions, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Weights (safetensors) with everything that made them (JSON), tracked as one MLflow run."""
    architecture = context.partition_key
    with lvm_errors_as_failures(), stage_shown(settings, "trained_model", architecture):
        product = train_in_child(context, config.applied_to(settings))
        findings = [Finding.from_json(values) for values in product["findings"]]
        yield from check_results(findings, INVARIANTS if product["error"] is None else ())
        if product["error"] is not None:
            raise LvmError(product["error"])
        info = product["info"]
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(product["data_version"]),
            metadata={
                **metadata.link(product["mlflow_url"]),
                **metadata.numbers(info),
                "metrics": metadata.markdown_table(info["history"]),
                "preset": info["preset"],
                "space_id": info["space_id"],
                "fingerprints": dg.MetadataValue.json(info["fingerprints"]),
                "path": dg.MetadataValue.path(settings.models_dir / architecture),
            },
        )


def train_in_child(context: dg.AssetExecutionContext, settings: Settings) -> Mapping[str, Any]:
    """Train in a process of its own and return what it reports: findings, and an error or what it made.

    A cancelled run interrupts the child, which closes its MLflow run; a killed parent takes the child with it; a
    killed child's MLflow run is closed here.

    Raises:
        LvmError: If the child was killed, or broke with an error that is not meant for people.
    """
    client = dg.PipesSubprocessClient(env=settings_environment(settings))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Dagster warns of its own inner calls
            done = client.run(context=context, command=launched([sys.executable, "-m", CHILD]))
    except DagsterPipesExecutionError as error:
        mlflow_store.close_abandoned_runs(settings)
        raise LvmError(why_child_ended(context.partition_key, str(error))) from None
    (product,) = done.get_custom_messages()
    return product


def why_child_ended(architecture: str, message: str) -> str:
    """Return what to tell of a child that ended without a report, from Dagster's message with its exit code."""
    was_killed = "with code -" in message
    reason = "was killed or ran out of memory" if was_killed else "broke; its traceback is in the output of the run"
    return f"The training of {architecture} {reason}; train it again, it goes on from its last checkpoint."
