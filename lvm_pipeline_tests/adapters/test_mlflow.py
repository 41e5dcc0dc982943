"""MLflow: one run a training, closed whatever happens; the model in it predicts; the champion is an alias."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lvm_pipeline.adapters import mlflow_registry, mlflow_store
from lvm_pipeline.adapters.loopback import LOOPBACK, free_port, is_free
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker, flattened, log_model_to_run
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings

pytestmark = pytest.mark.postgres

FINGERPRINTS = {"concepts": "c" * 64, "sequences": "s" * 64}


@pytest.fixture(scope="module")
def settings(module_postgres_url, open_tmp_path_factory):
    """A home and an MLflow store of this module's own."""
    uri = module_postgres_url.replace("postgresql://", "postgresql+psycopg2://")
    return Settings(home=open_tmp_path_factory() / "lvm_home", mlflow_tracking_uri=uri)


@pytest.fixture
def client(settings):
    return mlflow_store.open_client(settings)


@pytest.fixture
def tracker(settings):
    tracker = MlflowTracker(settings, system_metrics=False)
    tracker.start("lstm smoke", params={"lr": 1e-3}, tags={"architecture": "lstm"}, fingerprints=FINGERPRINTS)
    yield tracker
    tracker.finish("FINISHED")


def write_model(folder, *, vector_dim=32):
    folder.mkdir()
    (folder / "trained_model.json").write_text(json.dumps({"config": {"vector_dim": vector_dim}}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_run_holds_what_the_training_reported(tracker, client):
    values = [(step, step / 10) for step in range(2000)]
    tracker.log_metrics({"train/loss": values, "validation/cosine": [(0, 0.5), (1, 0.6)]})
    tracker.finish("FINISHED")

    run = client.get_run(tracker.run_id)

    assert (run.info.run_name, run.info.status) == ("lstm smoke", "FINISHED")
    assert run.data.params == {"lr": "0.001"}
    assert run.data.tags["architecture"] == "lstm"
    assert run.data.tags["fingerprint.sequences"] == "s" * 64
    assert [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs] == [
        ("concepts", "c" * 36),
        ("sequences", "s" * 36),
    ]
    assert run.data.metrics["validation/cosine"] == 0.6
    history = client.get_metric_history(tracker.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == values
    assert tracker.run_url.endswith(f"/runs/{tracker.run_id}")


def test_metrics_are_sent_in_batches(tracker, client, monkeypatch):
    sizes, log_batch = [], client.log_batch
    monkeypatch.setattr(
        client, "log_batch", lambda run_id, metrics: sizes.append(len(metrics)) or log_batch(run_id, metrics=metrics)
    )

    tracker.log_metrics({f"metric {n}": [(step, 0.0) for step in range(100)] for n in range(10)})

    assert sizes == [900, 100]  # one by one, they take 8 s or more


def test_a_failed_run_stays_failed(tracker, client, settings):
    tracker.finish("FAILED")
    tracker.finish("FINISHED")  # too late to change it

    assert client.get_run(tracker.run_id).info.status == "FAILED"
    assert mlflow_store.close_abandoned_runs(settings) == []


START_AND_DIE = """
import os, sys
from pathlib import Path
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.settings import Settings
tracker = MlflowTracker(Settings(home=Path(sys.argv[1]), mlflow_tracking_uri=os.environ["STORE"]))
tracker.start("killed", params={}, tags={}, fingerprints={})
print(tracker.run_id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_run_of_a_killed_process_is_marked_by_the_next_start(client, settings):
    child = subprocess.run(
        [sys.executable, "-c", START_AND_DIE, str(settings.home)],
        env={"STORE": settings.mlflow_tracking_uri, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    killed_run_id = child.stdout.strip()
    assert child.returncode == -9, child.stderr
    assert client.get_run(killed_run_id).info.status == "RUNNING"

    tracker = MlflowTracker(settings, system_metrics=False)
    tracker.start("next", params={}, tags={}, fingerprints={})

    assert client.get_run(killed_run_id).info.status == "FAILED"
    assert client.get_run(tracker.run_id).info.status == "RUNNING"
    assert mlflow_store.close_abandoned_runs(settings) == []  # its own process lives
    tracker.finish("FINISHED")


def test_a_run_of_a_killed_process_that_was_deleted_stops_no_later_training(client, settings):
    experiment_id = mlflow_store.experiment_id(settings)
    run_ids = [client.create_run(experiment_id).info.run_id for _ in range(2)]
    for run_id in run_ids:
        mlflow_store.note_open_run(settings, run_id)
        path = settings.mlflow_dir / "open_runs" / f"{run_id}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"process_started": "earlier"}))
    client.delete_run(run_ids[0])

    assert set(mlflow_store.close_abandoned_runs(settings)) == set(run_ids)

    assert client.get_run(run_ids[1]).info.status == "FAILED"
    assert mlflow_store.close_abandoned_runs(settings) == []


def test_system_metrics_are_sampled_from_the_first_seconds(settings, client):
    tracker = MlflowTracker(settings)
    tracker.start("system", params={}, tags={}, fingerprints={})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not has_system_metrics(client, tracker.run_id):
        time.sleep(0.3)
    tracker.finish("FINISHED")

    assert has_system_metrics(client, tracker.run_id)


def has_system_metrics(client, run_id):
    return any(name.startswith("system/cpu") for name in client.get_run(run_id).data.metrics)


def test_metrics_wait_while_the_store_is_away(tracker, client, monkeypatch):
    def refuse(*_, **__):
        raise LvmError("away")

    with monkeypatch.context() as patched:
        patched.setattr(tracker, "_send_metrics", refuse)
        tracker.log_metrics({"loss": [(0, 1.0)]})
    assert "loss" not in client.get_run(tracker.run_id).data.metrics

    tracker.log_metrics({"loss": [(1, 0.5)]})

    assert [m.step for m in client.get_metric_history(tracker.run_id, "loss")] == [0, 1]


def test_model_is_kept_with_its_shapes_and_without_pickle(tracker, client, tmp_path):
    tracker.log_model(write_model(tmp_path / "lstm"))

    model_id = client.get_run(tracker.run_id).outputs.model_outputs[0].model_id
    folder = mlflow_registry._model_dir(tracker._settings, client.get_logged_model(model_id)).parent
    import mlflow

    described = mlflow.models.Model.load(str(folder))
    assert described.flavors["python_function"]["loader_module"] == "lvm_pipeline.adapters.mlflow_model"
    assert described.signature.inputs.inputs[0].shape == (-1, -1, 32)
    assert described.signature.outputs.inputs[0].shape == (-1, 32)
    names = {file.name for file in folder.rglob("*") if file.is_file()}
    examples = {"input_example.json", "serving_input_example.json"}
    assert (
        names
        == {"MLmodel", "requirements.txt", "python_env.yaml", "trained_model.json", "model.safetensors"} | examples
    )
    assert np.shape(described.load_input_example(str(folder))) == (1, 2, 32)


def test_champion_is_an_alias_that_mlflow_loads(settings, client, tmp_path):
    assert mlflow_registry.champion(settings) is None
    run_ids = [run_with_model(settings, tmp_path / name) for name in ("first", "second")]

    first = mlflow_registry.promote(
        settings, mlflow_run_id=run_ids[0], tags={"architecture": "lstm"}, description="first"
    )
    second = mlflow_registry.promote(
        settings, mlflow_run_id=run_ids[1], tags={"architecture": "gru"}, description="gain"
    )
    again = mlflow_registry.promote(settings, mlflow_run_id=run_ids[0], tags={}, description="")

    assert (first.version, second.version, again.version) == ("1", "2", "1")
    champion = mlflow_registry.champion(settings)
    assert (champion.version, champion.mlflow_run_id, champion.tags) == ("1", run_ids[0], {"architecture": "lstm"})
    assert (champion.model_dir / "model.safetensors").read_bytes() == b"weights"
    assert first.model_dir != second.model_dir


def run_with_model(settings, folder):
    tracker = MlflowTracker(settings, system_metrics=False)
    tracker.start(folder.name, params={}, tags={}, fingerprints={})
    tracker.log_model(write_model(folder))
    tracker.finish("FINISHED")
    return tracker.run_id


def test_a_model_is_logged_though_the_folder_mlflow_was_deleted(settings, client, tmp_path):
    run_id = client.create_run(mlflow_store.experiment_id(settings)).info.run_id
    shutil.rmtree(settings.mlflow_dir)

    log_model_to_run(settings, run_id, write_model(tmp_path / "lstm"))

    assert mlflow_registry.promote(settings, mlflow_run_id=run_id, tags={}, description="").mlflow_run_id == run_id


def test_run_without_a_model_cannot_be_promoted(tracker, settings):
    with pytest.raises(LvmError, match="holds no model"):
        mlflow_registry.promote(settings, mlflow_run_id=tracker.run_id, tags={}, description="")


def test_an_absent_server_is_reported_at_once(tmp_path):
    settings = Settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")
    began = time.monotonic()

    with pytest.raises(LvmError, match="No MLflow server answers"):
        MlflowTracker(settings).start("x", params={}, tags={}, fingerprints={})

    assert time.monotonic() - began < 6


def test_an_address_of_something_else_than_a_web_server_is_reported(tmp_path):
    with socket.create_server((LOOPBACK, 0)) as listening:

        def answer():
            with listening.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")
                connection.recv(1000)

        threading.Thread(target=answer, daemon=True).start()
        settings = Settings(home=tmp_path, mlflow_tracking_uri=f"http://{LOOPBACK}:{listening.getsockname()[1]}")

        with pytest.raises(LvmError, match=r"No MLflow server answers at .* \(SSH-2.0-OpenSSH_9\); start it"):
            mlflow_store.open_client(settings)


def test_a_client_opened_ahead_is_the_one_that_is_used(settings):
    mlflow_store._client.cache_clear()

    mlflow_store.open_ahead(settings)
    client = mlflow_store.open_client(settings)

    assert client.search_experiments()
    assert mlflow_store._client.cache_info().misses == 1  # made once, though two threads asked for it


def test_an_error_ahead_is_left_to_whoever_needs_the_client(tmp_path, capfd):
    settings = Settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")

    mlflow_store.open_ahead(settings)
    with pytest.raises(LvmError, match="No MLflow server answers"):
        mlflow_store.open_client(settings)

    for thread in threading.enumerate():
        if thread.name == "mlflow":
            thread.join()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_written_outside_the_home(settings, client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    run_with_model(settings, tmp_path / "model")

    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_parameters_are_flattened():
    nested = {"a": 1, "b": {"c": (1, 2), "d": {"e": "text"}}, "f": None}
    assert dict(flattened(nested)) == {"a": 1, "b.c": [1, 2], "b.d.e": "text", "f": None}


@pytest.fixture
def served(settings, client):
    """Settings that name a tracking server, which keeps runs and artefacts by itself."""
    port = free_port()
    command = [Path(sys.prefix) / "bin" / "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", (settings.home / "served").as_uri()]
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]]),
    }
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=settings.home, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + 120
    while is_free(port) and time.monotonic() < deadline:
        time.sleep(0.2)
    yield settings.model_copy(update={"mlflow_tracking_uri": f"http://{LOOPBACK}:{port}"})
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_tracking_server_keeps_runs_and_hands_the_champion_out(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_model(tmp_path / "model")
    tracker = MlflowTracker(served, experiment="served", system_metrics=False)
    tracker.start("served", params={"lr": 0.1}, tags={}, fingerprints=FINGERPRINTS)
    tracker.log_metrics({"loss": [(step, 1.0) for step in range(1500)]})
    tracker.log_model(folder)
    tracker.finish("FINISHED")

    promoted = mlflow_registry.promote(served, mlflow_run_id=tracker.run_id, tags={}, description="by a server")

    assert tracker.run_url.startswith(served.mlflow_tracking_uri)
    assert mlflow_store.open_client(served).get_run(tracker.run_id).info.status == "FINISHED"
    assert (promoted.model_dir / "model.safetensors").read_bytes() == b"weights"
    assert promoted.model_dir.is_relative_to(served.mlflow_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_of_mlflow_without_a_message_is_one_sentence():
    from mlflow.exceptions import MlflowException

    with (
        pytest.raises(LvmError, match=r"The MLflow store cannot be used: MlflowException \("),
        mlflow_store.store_errors(),
    ):
        raise MlflowException("")
