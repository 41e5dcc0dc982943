"""A training killed in the middle and started again ends as if it had not been."""

import json
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import read_header
from lvm_pipeline_tests.training.test_loop import Recorder

CONFIG = {
    "preset": "smoke",
    "model": {"hidden_dim": 32, "dropout": 0.3},
    "batch_size": 40,
    "epochs": 4,
    "num_threads": 1,
    "checkpoint_seconds": 0.0,
}
KILLED = """
import json, os, signal, sys
from pathlib import Path
from lvm_pipeline.training.trained_model import read_header
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline_tests.training.conftest import open_data

def die_in_the_middle(report):
    if report.done_fraction > 0.65:
        os.kill(os.getpid(), signal.SIGKILL)

train(TrainingConfig(**json.loads(sys.argv[1])), open_data(Path(sys.argv[2])), output_dir=Path(sys.argv[3]),
      progress=die_in_the_middle)
"""


def history_of(info):
    return [{name: value for name, value in epoch.items() if name != "targets_per_second"} for epoch in info.history]


@pytest.fixture(scope="module")
def killed_in_the_middle(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "model"
    command = [sys.executable, "-c", KILLED, json.dumps(CONFIG), str(data_dir), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists()
    progress = json.loads(read_header(path.with_name(".model.checkpoint") / "checkpoint.safetensors")["lvm_progress"])
    assert progress["step_in_epoch"] > 0  # in the middle of an epoch
    return path


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(data, killed_in_the_middle, tmp_path):
    uninterrupted = train(TrainingConfig(**CONFIG), data, output_dir=tmp_path / "model")
    tracker, reports = Recorder(), []
    resumed = train(
        TrainingConfig(**CONFIG), data, output_dir=killed_in_the_middle, tracker=tracker, progress=reports.append
    )
    assert tracker.tags["is_resumed"] == "true"
    assert reports[0].done_fraction > 0.5  # it did go on
    expected, found = (load_file(model.path / "model.safetensors") for model in (uninterrupted, resumed))
    assert all(bool((expected[name] == found[name]).all()) for name in expected)
    assert (uninterrupted.path / "model.safetensors").read_bytes() == (resumed.path / "model.safetensors").read_bytes()
    assert history_of(uninterrupted.info) == history_of(resumed.info)


@pytest.fixture
def interrupted(data, tmp_path):
    def interrupt(report):
        if report.done_fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainingConfig(**CONFIG), data, output_dir=tmp_path / "model", progress=interrupt)
    return tmp_path / "model"


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"epochs": 5}, {"learning_rate": 0.5}, {"model": {"hidden_dim": 24}}, {"mode": "windows"}],
    ids=str,
)
def test_a_checkpoint_of_another_training_is_not_used(data, interrupted, change):
    tracker = Recorder()
    train(TrainingConfig(**{**CONFIG, **change}), data, output_dir=interrupted, tracker=tracker)
    assert tracker.tags["is_resumed"] == "false"


def test_a_checkpoint_of_other_data_is_not_used(noise_data, interrupted):
    tracker = Recorder()
    train(TrainingConfig(**CONFIG), noise_data, output_dir=interrupted, tracker=tracker)
    assert tracker.tags["is_resumed"] == "false"


def test_a_damaged_checkpoint_is_not_used(data, interrupted):
    (checkpoint,) = interrupted.parent.glob(".model.checkpoint/*")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    tracker = Recorder()
    train(TrainingConfig(**CONFIG), data, output_dir=interrupted, tracker=tracker)
    assert tracker.tags["is_resumed"] == "false"


def test_without_resume_it_starts_anew(data, interrupted):
    tracker = Recorder()
    train(TrainingConfig(**CONFIG), data, output_dir=interrupted, tracker=tracker, resume=False)
    assert tracker.tags["is_resumed"] == "false"
