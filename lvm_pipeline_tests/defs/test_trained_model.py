"""The training asset: a child process that shows its progress, is tracked, and never outlives its parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import dagster as dg
import psutil
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters import mlflow_store
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs import launchers, training_child
from lvm_pipeline.defs import trained_model as trained_model_module
from lvm_pipeline.defs.launch import QUIET, end_abandoned_runs, open_instance
from lvm_pipeline.defs.progress import watched
from lvm_pipeline.findings import Finding, InvariantError, Severity
from lvm_pipeline.training.trained_model import load_trained_model, read_trained_model_info
from lvm_pipeline_tests.rescored_here import rescored_here
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

pytestmark = pytest.mark.postgres

PATIENCE_SECONDS = 180


@pytest.fixture
def settings(make_settings):
    """Settings with promoted data products of 40 articles."""
    return with_products(make_settings(), article_lengths=[12] * 40)


@pytest.fixture
def endless(make_settings):
    """Settings whose training takes minutes and gets better all the time."""
    return with_products(make_settings(learning_rate=1e-5), article_lengths=[60] * 600, epochs=1000)


def with_products(settings, *, article_lengths, **changes):
    write_synthetic_concepts(settings.concepts_path, article_lengths=article_lengths, kind="rotation")
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    return settings.model_copy(update=changes)


def train(instance, *, architecture="gru", **options):
    return (
        defs()
        .resolve_job_def("train_architecture")
        .execute_in_process(
            instance=instance,
            run_config={**QUIET, "ops": {"trained_model": {"config": options}}},
            partition_key=architecture,
            asset_selection=[dg.AssetKey("trained_model")],
            raise_on_error=False,
        )
    )


def failure_of(result):
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return data.user_failure_data.description if data.user_failure_data else data.error_display_string


def mlflow_run(settings, run_id):
    return mlflow_store.open_client(settings).get_run(run_id)


def newest_mlflow_run(settings, architecture="gru"):
    client = mlflow_store.open_client(settings)
    experiment = mlflow_store.experiment_id(settings)
    return client.search_runs([experiment], f"tags.architecture = '{architecture}'", max_results=1)[0]


def test_training_is_tracked_checked_and_promoted(settings, instance):
    seen = []
    with watched(settings, seen.append):
        result = train(instance, architecture="gru", seed=3)

    assert result.success, failure_of(result)
    (event,) = result.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    info = read_trained_model_info(settings.models_dir / "gru")
    assert (event.partition, info.seed, info.preset) == ("gru", 3, "smoke")
    assert metadata["num_params"] == info.num_params
    assert metadata["score"] == pytest.approx(info.score, rel=1e-3)
    assert metadata["Verdict"].startswith(f"Validation cosine {info.score:.4f} after epoch {info.best_epoch}, ")
    checks = {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}
    assert set(checks) == {invariant.name for invariant in trained_model_module.INVARIANTS}
    assert all(evaluation.passed for evaluation in checks.values())

    run = mlflow_run(settings, metadata["mlflow_run"].rsplit("/", 1)[-1])
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert run.data.metrics["validation_cosine"] == pytest.approx(info.history[-1]["validation_cosine"])
    assert run.outputs.model_outputs

    own = [stage for stage in seen if (stage.stage, stage.partition) == ("trained_model", "gru")]
    assert own[-1].state == "done"
    assert any(stage.note.startswith("epoch ") for stage in own)  # which one was seen last is a matter of speed


def test_equal_trainings_have_equal_data_versions_and_the_second_only_happens_if_asked(settings, instance, monkeypatch):
    """The first two are made in this process, which starts sooner; the third, in a child, has to come to the same."""
    with monkeypatch.context() as patch:
        rescored_here(patch)
        patch.setenv("LVM_LAUNCHER", "inprocess")
        events = [train(instance).get_asset_materialization_events()[0] for _ in range(2)]
    events += train(instance, again=True).get_asset_materialization_events()

    metadata = [event.materialization.metadata for event in events]
    assert [each["was_trained_now"].value for each in metadata] == [True, False, True]
    assert len({event.materialization.tags["dagster/data_version"] for event in events}) == 1
    assert len({each["trial_id"].value for each in metadata}) == 1
    load_trained_model(settings.models_dir / "gru")


def test_stale_sequences_are_refused_in_one_sentence(settings, instance):
    write_synthetic_concepts(settings.concepts_path, article_lengths=[13] * 40)

    result = train(instance)

    assert not result.success
    assert "fingerprint" in failure_of(result)
    assert not (settings.models_dir / "gru").exists()


FAILED = Finding(
    name="prediction_is_not_the_mean_vector", passed=False, severity=Severity.BLOCKING, message="collapsed"
)


def test_a_blocking_failure_is_reported_with_its_findings(settings, monkeypatch):
    def fails(*args, **options):
        raise InvariantError([FAILED])

    monkeypatch.setattr(lineage, "train_launched", fails)

    pipes = SimpleNamespace(partition_key="gru", get_extra=lambda name: False, log=None)
    report = training_child.report_of(pipes)

    assert "collapsed" in report["error"]
    assert [Finding.from_json(values) for values in report["findings"]] == [FAILED]


def test_a_failed_blocking_check_is_recorded_and_nothing_materialised(settings, instance, monkeypatch):
    report = {"error": "collapsed", "findings": [FAILED.as_json()]}
    monkeypatch.setattr(trained_model_module, "train_in_child", lambda *_, again: report)

    result = train(instance)

    assert not result.success
    assert result.get_asset_materialization_events() == []
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("prediction_is_not_the_mean_vector", False)
    assert evaluation.partition == "gru"


@pytest.mark.slow
def test_a_killed_child_fails_the_run_and_its_mlflow_run(endless, instance):
    def kill_when_training():
        try:
            wait_for_first_epoch(endless)
        finally:  # or the test would never end
            training_process_of(os.getpid()).kill()

    killer = threading.Thread(target=kill_when_training)
    killer.start()
    result = train(instance, epochs=endless.epochs)
    killer.join()

    assert "was killed" in failure_of(result)
    assert newest_mlflow_run(endless).info.status == "FAILED"
    assert result.get_asset_materialization_events() == []


PARENT = """
from lvm_pipeline.definitions import defs
from lvm_pipeline.defs import launch
from lvm_pipeline.settings import load_settings
with launch.open_instance(load_settings(epochs=1000)) as instance:
    launch._run(instance, defs(), "train_architecture", ("trained_model",), partition="gru")
"""


@pytest.fixture
def parent(endless):
    """A command that trains, in its own process group, after its first epoch; with its training child."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True)
    try:
        wait_for_first_epoch(endless, is_alive=lambda: process.poll() is None)
        yield process, training_process_of(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_killed_parent_takes_the_training_with_it_and_the_next_command_cleans_up(endless, parent):
    process, child = parent

    process.send_signal(signal.SIGKILL)
    process.wait()

    child.wait(timeout=10)
    assert newest_mlflow_run(endless).info.status in {"RUNNING", "KILLED"}
    with open_instance(endless) as instance:
        (ended,) = end_abandoned_runs(instance)
        assert instance.get_run_by_id(ended).status == dg.DagsterRunStatus.FAILURE
        assert instance.event_log_storage.get_concurrency_info("gpu").claimed_slots == []
        assert end_abandoned_runs(instance) == []
    mlflow_store.close_abandoned_runs(endless)
    assert newest_mlflow_run(endless).info.status in {"FAILED", "KILLED"}


@pytest.mark.slow
def test_an_interrupted_command_ends_its_training_in_order(endless, parent):
    process, child = parent

    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=PATIENCE_SECONDS) != 0
    assert not child.is_running()
    assert newest_mlflow_run(endless).info.status == "KILLED"
    with open_instance(endless) as instance:
        (run,) = instance.get_runs(limit=1)
        assert run.status in {dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE}
        assert instance.event_log_storage.get_concurrency_info("gpu").claimed_slots == []
    assert not (endless.models_dir / "gru").exists()


def wait_for_first_epoch(settings, *, is_alive=lambda: True):
    progress = settings.home / "progress" / "trained_model-gru.json"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (progress.exists() and '"note": "epoch' in progress.read_text()):
        assert is_alive(), "the command ended before the training began"
        assert time.monotonic() < deadline, "the training did not begin"
        time.sleep(0.1)


def training_process_of(pid):
    alive = [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    return next(child for child in alive if training_child.__name__ in " ".join(child.cmdline()))


def test_a_killed_training_is_distinguished_from_a_broken_one():
    assert "was killed" in launchers.why_child_ended("gru", "failed with code -9")
    assert "crashed" in launchers.why_child_ended("gru", "failed with code 1")
