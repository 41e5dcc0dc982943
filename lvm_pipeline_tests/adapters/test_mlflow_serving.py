"""The champion as an MLflow model: loaded by MLflow, and behind its own server from an environment not activated."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm_pipeline.adapters import mlflow_model, mlflow_plugin, mlflow_serving
from lvm_pipeline.adapters.loopback import LOOPBACK, free_port, is_free
from lvm_pipeline.inference.context import ReadingModel
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.adapters.processes import wait_until
from lvm_pipeline_tests.evaluation.products import make_products

WIDTH = 16
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    return make_products(tmp_path_factory.mktemp("served"), lengths=[12, 9, 14, 22, 11, 18] * 3)


@pytest.fixture(scope="module")
def model_dir(products):
    """A GRU that reads windows of five."""
    return products.train("gru", architecture="gru", mode="windows")


@pytest.fixture(scope="module")
def mlflow_dir(model_dir, tmp_path_factory):
    """The folder that MLflow has of a logged model."""
    folder = tmp_path_factory.mktemp("mlflow_model")
    mlflow_model.write_description(folder, model_dir=model_dir, model_id="m-1", run_id="1" * 32)
    (folder / mlflow_model.DATA).symlink_to(model_dir)
    return folder


@pytest.fixture(scope="module")
def loaded(mlflow_dir):
    import mlflow

    return mlflow.pyfunc.load_model(str(mlflow_dir))


@pytest.fixture(scope="module")
def contexts(products):
    return np.stack([products.data().vectors[row : row + 8] for row in (0, 1)])


def test_mlflow_predicts_what_lvm_predict_does(loaded, model_dir, contexts):
    reading = ReadingModel(load_trained_model(model_dir)[0], window=5)
    expected = []
    for context in contexts:
        reading.start_article()
        expected.append([reading.read(vector) for vector in context][-1])

    np.testing.assert_allclose(loaded.predict(contexts), expected, rtol=0, atol=1e-5)


def test_the_input_example_can_be_predicted_from(loaded, mlflow_dir):
    example = loaded.metadata.load_input_example(str(mlflow_dir))

    assert loaded.predict(example.astype(np.float32)).shape == (1, WIDTH)


def spoilt(contexts, value):
    contexts = contexts.copy()
    contexts[1, 3, 2] = value
    return contexts


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: spoilt(c, np.nan), "Row 3 of vectors has a number that is not finite"),
        (lambda c: spoilt(c, -np.inf), "not finite"),
        (lambda c: c[..., :-1], "schema"),
        (lambda c: c[:, :0], "The context is empty"),
        (lambda c: c[:0], "There is no context"),
        (lambda c: np.tile(c, (1, 600, 1)), "has 4,800 concepts; the limit is 4,096"),
        (lambda c: np.zeros_like(c), "Vector 0 is all zeros"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_reason(loaded, contexts, spoil, reason):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=reason) as raised:
        loaded.predict(spoil(contexts))

    assert raised.value.get_http_status_code() == 400


def test_vectors_are_scaled_as_the_space_has_them(loaded, contexts):
    np.testing.assert_allclose(loaded.predict(3 * contexts), loaded.predict(contexts), rtol=0, atol=1e-5)


@contextmanager
def mlflow_server(mlflow_dir, log_path):
    port = free_port()
    with log_path.open("wb") as log:
        options = mlflow_serving.serve_command(mlflow_dir, host=LOOPBACK, port=port)[3:]  # not `python -m mlflow`
        command = [str(PROGRAMS / "mlflow"), *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        is_up = wait_until(lambda: status_of(f"http://{LOOPBACK}:{port}/ping") == 200, seconds=120)
        assert is_up, log_path.read_text()[-5000:]
        yield f"http://{LOOPBACK}:{port}/invocations"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


SERVES = """
import sys
from pathlib import Path
from types import SimpleNamespace
from lvm_pipeline.adapters import mlflow_registry, mlflow_serving
from lvm_pipeline.cli.interruption import handle_signals
from lvm_pipeline.settings import Settings

handle_signals()
mlflow_registry.champion = lambda _: SimpleNamespace(model_dir=Path(sys.argv[1]))
mlflow_serving.serve_champion(Settings(), host="127.0.0.1", port=int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_the_command_that_started_it(mlflow_dir, number):
    port = free_port()
    command = [sys.executable, "-c", SERVES, str(mlflow_dir / mlflow_model.DATA), str(port)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert wait_until(lambda: status_of(f"http://{LOOPBACK}:{port}/ping") == 200, seconds=120)

        child.send_signal(number)

        child.wait(timeout=30)
        assert wait_until(lambda: is_free(port), seconds=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def status_of(url, body=None):
    return answer(url, body)[0]


def answer(url, body=None):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


def test_mlflow_puts_this_environment_on_the_path_once(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for _ in range(2):
        assert not mlflow_plugin.ProgramsOnPath().in_context()
        assert os.environ["PATH"] == f"{PROGRAMS}:/usr/bin:/bin"


@pytest.mark.slow
def test_mlflow_models_serve_works_without_an_activated_environment(mlflow_dir, contexts, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    good = json.dumps({"inputs": contexts.tolist()})

    with mlflow_server(mlflow_dir, tmp_path / "log") as url:
        status, text = answer(url, good.encode())
        assert status == 200, text
        assert np.shape(json.loads(text)["predictions"]) == (2, WIDTH)

        example = (mlflow_dir / mlflow_model.SERVING_EXAMPLE).read_bytes()
        assert answer(url, example)[0] == 200

        number = str(contexts[0, 0].tolist()[0])
        for bad in ("NaN", "Infinity", "1e39", "1e999"):
            status, text = answer(url, good.replace(number, bad, 1).encode())
            assert (status, "not finite" in text, "Traceback" in text) == (400, True, False), text
        for body in (b"{", b'{"inputs": [[[1, 2]]]}', json.dumps({"inputs": [[[0.5] * WIDTH] * 5000]}).encode()):
            assert answer(url, body)[0] == 400


def test_the_linear_forecast_is_a_model_like_any_other(products, contexts, tmp_path):
    config = TrainingConfig(preset="smoke", architecture="linear", mode="articles", num_threads=1)
    folder = train(config, products.data(), output_dir=tmp_path / "linear").path

    found = mlflow_model._load_pyfunc(str(folder)).predict(contexts)

    model, _ = load_trained_model(folder)
    with torch.inference_mode():
        expected = model(torch.from_numpy(contexts))[:, -1].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
