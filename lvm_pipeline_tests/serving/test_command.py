"""`lvm serve` as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from lvm_pipeline.adapters.loopback import LOOPBACK, free_port
from lvm_pipeline_tests.adapters.processes import wait_until
from lvm_pipeline_tests.serving.homes import call, texts_of

START = "from lvm_pipeline.cli import main; main()"


@pytest.mark.slow
def test_it_serves_on_its_port_until_it_is_interrupted(trial_home):
    port = free_port()
    environment = os.environ | {"LVM_HOME": str(trial_home.home), "LVM_SERVE_PORT": str(port), "LVM_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", START, "serve", "--model", "gru"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            assert wait_until(lambda: answers(f"http://{LOOPBACK}:{port}/health"), seconds=120)
            status, _, text = call(f"http://{LOOPBACK}:{port}/predict", {"texts": texts_of([3])})
            assert (status, json.loads(text)["architecture"]) == (200, "gru")
            assert call(f"http://{LOOPBACK}:{port}/health", host="evil.example.org")[0] == 400
        finally:
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert f"Serving on http://{LOOPBACK}:{port}" in output.decode()
    assert "Traceback" not in output.decode()


def answers(url):
    try:
        return call(url)[0] == 200
    except OSError:
        return False


def test_a_port_in_use_is_one_sentence(lvm, trial_home, monkeypatch):
    monkeypatch.setenv("LVM_HOME", str(trial_home.home))
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]

        code, out, err = lvm("serve", "--model", "gru", "--port", port)

    assert (code, f"Port {port} is in use; choose another with --port" in err) == (1, True)
    assert "Traceback" not in out + err


def test_the_address_of_a_proxy_without_a_host_name_is_refused(lvm, trial_home, monkeypatch):
    monkeypatch.setenv("LVM_HOME", str(trial_home.home))
    monkeypatch.setenv("LVM_SERVE_URL", "models.example.org")

    code, _, err = lvm("serve", "--model", "gru", "--port", free_port())

    assert (code, "LVM_SERVE_URL is 'models.example.org', which has no host name" in err) == (1, True)


def test_mlflow_serves_the_champion_only(lvm):
    code, _, err = lvm("serve", "--mlflow", "--model", "gru")

    assert (code, "MLflow serves the champion only" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve"], "There is no champion yet"),
        (["serve", "--model", "gru"], "There is no trained trial 'gru'"),
        (["try", __file__], "There is no concept table"),
    ],
)
def test_what_is_missing_is_reported_before_pytorch_is_imported(tmp_path, arguments, words):
    """PyTorch takes seconds."""
    script = f"import sys\ntry:\n    {START}\nfinally:\n    print('torch' in sys.modules)"
    environment = os.environ | {"LVM_HOME": str(tmp_path / "home"), "LVM_SERVE_PORT": str(free_port())}

    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stdout, words in run.stderr) == (1, "False\n", True)
    assert not (tmp_path / "home").exists()
