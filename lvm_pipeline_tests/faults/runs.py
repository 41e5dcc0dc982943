"""What the tests of faults share: real Dagster runs on small data, and what such a run shows of a fault."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.concepts.schema import concepts_schema
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs import trained_model as trained_model_asset
from lvm_pipeline.defs import training_child
from lvm_pipeline.defs.launch import QUIET
from lvm_pipeline.settings import Settings, settings_environment
from lvm_pipeline.training.tracking import Tracker
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import synthetic_table, write_synthetic_sequences, write_table

LINEAGE = ("concepts", "sequences", "trained_model", "evaluation_report", "leaderboard", "champion")
WIDTH = 16
LENGTHS = [12, 9, 14, 8, 11, 10, 13, 9] * 4
ARCHITECTURE = "lstm"


@dataclass(frozen=True)
class Shown:
    """What one Dagster run left on record: assets materialised, checks, and the sentence of the step that failed."""

    materialised: frozenset[str]
    checks: dict[str, dg.AssetCheckEvaluation]
    failed_step: str | None
    sentence: str

    @property
    def passed(self) -> frozenset[str]:
        return frozenset(name for name, check in self.checks.items() if check.passed)

    def text_of(self, check: str) -> str:
        """The message of a check with its details."""
        found = self.checks[check]
        details = found.metadata.get("details")
        return f"{found.description} {details.value if details else ''}"


def shown(result: dg.ExecuteInProcessResult) -> Shown:
    failures = [event for event in result.all_events if event.is_step_failure]
    data = failures[0].step_failure_data if failures else None
    description = data.user_failure_data.description if data and data.user_failure_data else None
    return Shown(
        materialised=frozenset(e.asset_key.to_user_string() for e in result.get_asset_materialization_events()),
        checks={evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()},
        failed_step=failures[0].step_key if failures else None,
        sentence=description or (data.error_display_string if data else ""),
    )


def run_job(
    settings: Settings,
    name: str,
    *,
    assets: tuple[str, ...] = (),
    partition: str | None = None,
    config: dict | None = None,
) -> Shown:
    """Run a job of the real definitions in this process with the given settings."""
    with dg.DagsterInstance.ephemeral() as instance, environment(settings), training_in_this_process():
        result = job(name).execute_in_process(
            instance=instance,
            run_config={**QUIET, **(config or {})},
            partition_key=partition,
            asset_selection=[dg.AssetKey(asset) for asset in assets] or None,
            raise_on_error=False,
        )
    return shown(result)


@cache
def job(name: str) -> dg.JobDefinition:
    """A job of the real definitions."""
    return defs().resolve_job_def(name)


def refresh(settings: Settings) -> Shown:
    """Take the source table to concepts and sequences."""
    return run_job(settings, "refresh_data")


def train(settings: Settings) -> Shown:
    """Train on the promoted data, even if nothing but injected code has changed, and score the promoted model."""
    assets = ("trained_model", "evaluation_report")
    again = {"ops": {"trained_model": {"config": {"again": True}}}}
    return run_job(settings, "train_architecture", assets=assets, partition=ARCHITECTURE, config=again)


def evaluate(settings: Settings) -> Shown:
    """Score the promoted model."""
    return run_job(settings, "train_architecture", assets=("evaluation_report",), partition=ARCHITECTURE)


@contextmanager
def environment(settings: Settings) -> Iterator[None]:
    """Let assets read these settings and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings_environment(settings).items():
            patch.setenv(name, value)
        yield


@contextmanager
def training_in_this_process() -> Iterator[None]:
    """Run what the training child runs, without its process (see `defs/test_trained_model.py`) and without MLflow.

    Nor are concepts held against a champion's: drift has tests of its own, and here there is no champion.
    """

    no_drift = [invariant.not_checked("there is no champion") for invariant in lineage.INVARIANTS["drift"]]

    def train_here(launcher, context, settings, *, again):
        pipes = SimpleNamespace(partition_key=context.partition_key, get_extra=lambda name: again, log=context.log)
        with environment(settings):
            return training_child.report_of(pipes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_model_asset, "train_in_child", train_here)
        patch.setattr(training_child, "MlflowTracker", lambda settings: Tracker())
        rescored_here(patch)
        patch.setattr(lineage, "check_drift", lambda settings: (SimpleNamespace(findings=no_drift), settings.home))
        yield


def assert_stopped(run: Shown, unharmed: Shown, *, at: str, by: str, naming: tuple[str, ...]) -> None:
    """The one check failed as an error and says what is wrong; neither its asset nor one behind it was materialised.

    The same check passes on unharmed data, or has no result there, since evidence such as an encoder is missing.
    """
    assert by not in unharmed.checks or by in unharmed.passed
    assert by in run.checks
    check = run.checks[by]
    assert not check.passed, f"{by} sees nothing"
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert check.asset_key.to_user_string() == at
    for words in naming:
        assert words in run.text_of(by)
    assert run.failed_step == at
    assert by in run.sentence
    assert not run.materialised & set(LINEAGE[LINEAGE.index(at) :])


def assert_warned(run: Shown, unharmed: Shown, *, by: str, naming: tuple[str, ...]) -> None:
    """The one check failed as a warning and says what is wrong; it passes on unharmed data."""
    assert by in unharmed.passed
    assert by in run.checks
    assert not run.checks[by].passed, f"{by} sees nothing"
    assert run.checks[by].severity == dg.AssetCheckSeverity.WARN
    for words in naming:
        assert words in run.text_of(by)


def make_settings(home: Path, postgres_dir: Path, url: str, **values) -> Settings:
    """Settings of a home of its own on the session's server."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "postgres").exists():
        (home / "postgres").symlink_to(postgres_dir, target_is_directory=True)
    options = {"preset": "smoke", "epochs": 2, "num_threads": 1, "mode": "windows", "split_seed": 1}
    return Settings(home=home, database_url=url, **{**options, **values})


def copied_home(settings: Settings, home: Path, **changes) -> Settings:
    """The same products in another home."""
    shutil.copytree(settings.home, home, symlinks=True)
    return settings.model_copy(update={"home": home, **changes})


def with_vectors(table: pa.Table, change) -> pa.Table:
    """Replace the vectors (N, D) of a concept table by `change` of them."""
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    changed = np.ascontiguousarray(change(vectors.copy()), np.float32)
    schema = concepts_schema(vectors.shape[1])
    column = pa.FixedSizeListArray.from_arrays(pa.array(changed.ravel()), type=schema.field("vector").type)
    return table.set_column(table.schema.get_field_index("vector"), schema.field("vector"), column)


def promote_synthetic(settings: Settings, *, kind="rotation", change=lambda vectors: vectors) -> None:
    """Put concepts and sequences in their place, past every check."""
    table = with_vectors(synthetic_table(LENGTHS, vector_dim=WIDTH, kind=kind), change)
    write_table(table, settings.concepts_path)
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path, split_seed=settings.split_seed)
