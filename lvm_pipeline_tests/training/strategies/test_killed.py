"""Whatever the strategy and the mode, a training that is killed again and again ends as if it had not been."""

import json
import subprocess
import sys

import pytest

from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.strategies import STRATEGIES
from lvm_pipeline_tests.training.strategies.test_contract import NEEDED, assert_same, config_of
from lvm_pipeline_tests.training.test_loop import Recorder

STEPS_BEFORE_A_KILL = (1, 2, 4)
CASES = [
    pytest.param(strategy, mode, id=f"{strategy} {mode}")
    for strategy in STRATEGIES
    for mode in ("articles", "windows")
    if NEEDED.get(strategy, {}).get("mode", mode) == mode
]
KILLER = """
import json, os, signal, sys
from pathlib import Path
import torch
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline_tests.training.conftest import open_data

def die_after(steps):
    left = [steps]
    def progress(report):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return progress

torch.set_num_threads(1)
data = open_data(Path(sys.argv[1]))
for config, path in json.loads(sys.argv[2]):
    for steps in json.loads(sys.argv[3]):
        child = os.fork()
        if child == 0:
            train(TrainingConfig(**config), data, output_dir=Path(path), progress=die_after(steps))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, config
"""


def killed_config(strategy, mode):
    return config_of(strategy, mode=mode, ema_decay=0.9, batch_size=15)


@pytest.fixture(scope="module")
def killed(rich_dir, tmp_path_factory):
    """Folders of trainings that were killed three times each, by strategy and mode."""
    folder = tmp_path_factory.mktemp("killed")
    found = {case.values: folder / case.id for case in CASES}
    given = [(killed_config(*case).as_json(), str(path)) for case, path in found.items()]
    command = [sys.executable, "-W", "ignore", "-c", KILLER, str(rich_dir), json.dumps(given)]
    done = subprocess.run([*command, json.dumps(STEPS_BEFORE_A_KILL)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("strategy", "mode"), CASES)
def test_killed_at_any_step_and_resumed_equals_uninterrupted_bit_for_bit(rich_data, killed, tmp_path, strategy, mode):
    config, tracker = killed_config(strategy, mode), Recorder()
    resumed = train(config, rich_data, output_dir=killed[strategy, mode], tracker=tracker)
    assert tracker.tags["is_resumed"] == "true"
    assert_same(train(TrainingConfig(**config.as_json()), rich_data, output_dir=tmp_path / "whole"), resumed)
