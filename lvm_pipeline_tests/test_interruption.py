"""Commands that are asked to end close what they have open."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lvm_pipeline_tests.adapters.processes import wait_until
from lvm_pipeline_tests.synthetic import write_synthetic_concepts

WAITS = """
import os, time
from lvm_pipeline.cli.interruption import handle_signals
handle_signals()
has_begun, begin = os.pipe()
child = os.fork()
if child == 0:
    os.write(begin, b".")  # Python forgets a signal that comes before this
    time.sleep(60)
os.read(has_begun, 1)
try:
    print("up", child, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("closed")
"""


@pytest.fixture(autouse=True)
def of_a_terminal():
    """SIGHUP is not ignored, as it is where the tests themselves run under nohup; children inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def waiting(*command):
    """Start a command that waits, and give it and its first line."""
    child = subprocess.Popen([*command, sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True)
    return child, child.stdout.readline().split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_asked_to_end_is_interrupted_once(number):
    child, (_, forked) = waiting()
    os.kill(int(forked), signal.SIGKILL)
    for _ in range(1 if number == signal.SIGINT else 2):
        child.send_signal(number)

    assert child.communicate(timeout=20)[0] == "closed\n"


def test_a_command_under_nohup_outlives_its_terminal():
    child, (_, forked) = waiting("nohup")
    os.kill(int(forked), signal.SIGKILL)
    child.send_signal(signal.SIGHUP)

    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=1)
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=20)[0] == "closed\n"


def test_a_forked_child_ends_as_other_programs_do():
    child, (_, forked) = waiting()
    os.kill(int(forked), signal.SIGTERM)
    assert wait_until(lambda: state_of(forked) == "Z", seconds=10)
    child.terminate()

    assert child.communicate(timeout=20)[0] == "closed\n"


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


@pytest.mark.slow
def test_a_training_that_is_asked_to_end_closes_its_run(tmp_path):
    given = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[12] * 40)
    store = tmp_path / "mlflow.db"
    environment = os.environ | {
        "LVM_HOME": str(tmp_path / "home"),
        "LVM_MLFLOW_TRACKING_URI": f"sqlite:///{store}",
        "LVM_MIN_VALIDATION_ARTICLES": "1",
        "LVM_MIN_VALIDATION_SEQUENCES": "1",
    }
    command = [sys.executable, "-c", "from lvm_pipeline.cli import main; main()"]
    options = ["train", "--preset", "smoke", "--epochs", "1000000", "--data", str(given)]
    child = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert wait_until(lambda: selected(store, "SELECT 1 FROM metrics LIMIT 1"), seconds=120)
        child.terminate()
        output, _ = child.communicate(timeout=60)
    finally:
        child.kill()

    assert child.returncode == 130, output
    assert "Run the same command again to resume" in output
    assert selected(store, "SELECT status FROM runs") == ["KILLED"]


def selected(store, query):
    """Return the only column of a query; nothing while MLflow makes the store."""
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
            return [value for (value,) in connection.execute(query)]
    except sqlite3.OperationalError:
        return []
