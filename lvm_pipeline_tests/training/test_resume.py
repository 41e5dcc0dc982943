"""A training killed in the middle and started again ends as if it had not been."""

import functools
import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training import record
from lvm_pipeline.training.checkpoint import (
    Progress,
    TrainingState,
    find_checkpoint,
    kept_checkpoints,
    restore_checkpoint,
)
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.settle import model_config_for
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
CHECKPOINT = "checkpoint.safetensors"
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


def note_set_aside(model, found, report):
    """Note the checkpoints that are set aside while a model is trained."""
    paths = model.parent.glob(".model.checkpoint/unusable-*")
    found.append({path.name: path.read_bytes() for path in paths})


def names_beside(model):
    return [path.name for path in model.parent.iterdir()]


@pytest.fixture
def interrupted(data, tmp_path):
    def interrupt(report):
        if report.done_fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainingConfig(**CONFIG), data, output_dir=tmp_path / "model", progress=interrupt)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "options.seed was None and is 1"),
        ({"epochs": 5}, "options.epochs was 4 and is 5"),
        ({"model": {"hidden_dim": 24, "dropout": 0.3}}, "model.config.hidden_dim was 32 and is 24"),
        ({"mode": "windows"}, "options.mode was None and is 'windows'"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_training_stops_with_a_sentence_until_asked(data, interrupted, change, words, caplog):
    config, tracker = TrainingConfig(**{**CONFIG, **change}), Recorder()
    (checkpoint,) = interrupted.parent.glob(f".model.checkpoint/{CHECKPOINT}")
    before = checkpoint.read_bytes()
    with pytest.raises(LvmError, match=f"cannot be resumed.*{words}.*--again"):
        train(config, data, output_dir=interrupted, tracker=tracker)
    assert tracker.events == []  # no tracked run was opened for it
    assert checkpoint.read_bytes() == before

    kept = []
    keep = functools.partial(note_set_aside, interrupted, kept)
    train(config, data, output_dir=interrupted, tracker=tracker, again=True, progress=keep)

    assert tracker.tags["is_resumed"] == "false"
    assert kept[0] == {"unusable-checkpoint-1.safetensors": before}
    assert "It is set aside as" in caplog.text
    assert names_beside(interrupted) == [interrupted.name]


def test_a_checkpoint_of_edited_code_stops_with_a_sentence(data, interrupted, monkeypatch):
    monkeypatch.setattr(record, "training_code_version", lambda architecture, strategy: "0.1.0+edited")
    with pytest.raises(LvmError, match=r"code was '0\.1\.0\+\w+' and is '0\.1\.0\+edited'"):
        train(TrainingConfig(**CONFIG), data, output_dir=interrupted)


def checkpoints_of(model):
    """The checkpoints of an interrupted training, newest first."""
    return kept_checkpoints(model.parent / ".model.checkpoint" / CHECKPOINT)


def test_the_last_checkpoints_are_kept(data, tmp_path):
    def interrupt(report):
        if report.done_fraction > 0.3:
            raise KeyboardInterrupt

    config = TrainingConfig(**CONFIG, checkpoints_kept=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, output_dir=tmp_path / "model", progress=interrupt)
    kept = checkpoints_of(tmp_path / "model")
    assert [path.name for path in kept] == [CHECKPOINT, "checkpoint.1.safetensors", "checkpoint.2.safetensors"]
    steps = [json.loads(read_header(path)["lvm_progress"])["step"] for path in kept]
    assert steps == [steps[0], steps[0] - 1, steps[0] - 2]


def torn(path):
    path.write_bytes(path.read_bytes()[:1000])


def changed(path):
    """Turn one bit of a weight; the file can still be read."""
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [torn, changed])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(data, interrupted, damage, tmp_path, caplog):
    newest, _before = checkpoints_of(interrupted)
    damage(newest)
    (newest.parent / f".{CHECKPOINT}.new").write_bytes(b"half of a file")  # of a training killed while it wrote
    tracker = Recorder()
    resumed = train(TrainingConfig(**CONFIG), data, output_dir=interrupted, tracker=tracker)
    assert tracker.tags["is_resumed"] == "true"
    assert f"{newest.name} is skipped: it is damaged" in caplog.text
    uninterrupted = train(TrainingConfig(**CONFIG), data, output_dir=tmp_path / "other")
    assert (uninterrupted.path / "model.safetensors").read_bytes() == (resumed.path / "model.safetensors").read_bytes()


def test_damaged_checkpoints_stop_with_a_sentence(data, interrupted):
    for checkpoint in checkpoints_of(interrupted):
        torn(checkpoint)
    with pytest.raises(LvmError, match=r"cannot be resumed: it is damaged"):
        train(TrainingConfig(**CONFIG), data, output_dir=interrupted)
    kept = []
    keep = functools.partial(note_set_aside, interrupted, kept)
    train(TrainingConfig(**CONFIG), data, output_dir=interrupted, again=True, progress=keep)
    assert list(kept[0]) == ["unusable-checkpoint-1.safetensors"]


def test_a_checkpoint_of_other_data_is_set_aside_since_data_change_by_themselves(noise_data, interrupted, caplog):
    tracker, kept = Recorder(), []
    before = checkpoints_of(interrupted)[0].read_bytes()
    keep = functools.partial(note_set_aside, interrupted, kept)
    train(TrainingConfig(**CONFIG), noise_data, output_dir=interrupted, tracker=tracker, progress=keep)
    assert tracker.tags["is_resumed"] == "false"
    assert kept[-1] == {"unusable-checkpoint-1.safetensors": before}
    assert "data.concepts was" in caplog.text
    assert names_beside(interrupted) == [interrupted.name]


def test_what_was_set_aside_is_kept_until_a_training_has_ended(noise_data, interrupted):
    before = checkpoints_of(interrupted)[0].read_bytes()

    def interrupt(report):
        if report.done_fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainingConfig(**CONFIG), noise_data, output_dir=interrupted, progress=interrupt)
    kept = []
    keep = functools.partial(note_set_aside, interrupted, kept)
    tracker = Recorder()
    train(TrainingConfig(**CONFIG), noise_data, output_dir=interrupted, tracker=tracker, progress=keep)

    assert tracker.tags["is_resumed"] == "true"
    assert kept[0] == {"unusable-checkpoint-1.safetensors": before}
    assert names_beside(interrupted) == [interrupted.name]


def test_a_checkpoint_is_resumed_on_a_machine_with_other_gpus_and_threads(data, interrupted, monkeypatch):
    """A checkpoint written without a GPU holds no random state of one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resumed_state(data, interrupted).progress.step > 0


def resumed_state(data, interrupted):
    config, architecture = TrainingConfig(**{**CONFIG, "num_threads": 2}), load_architecture("lstm")
    model_config = model_config_for(architecture, config, data)
    model = architecture.build(model_config)
    state = TrainingState(
        model=model,
        optimiser=torch.optim.AdamW(model.parameters()),
        progress=Progress(),
        best_weights={},
    )
    identity = record.checkpoint_identity(config.trial, model, model_config, data)
    path = interrupted.parent / ".model.checkpoint" / CHECKPOINT
    assert restore_checkpoint(find_checkpoint(path, identity), state)
    return state
