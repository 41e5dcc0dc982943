"""A trial's id follows from its options alone, whatever the machine, the order or the spelling of numbers."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from lvm_pipeline.training.config import TrainingConfig, training_config
from lvm_pipeline.training.trial import Trial


def test_ids_are_readable_and_stay_as_they_are_from_version_to_version():
    """Folders, MLflow runs and reports go by them; a changed id orphans them all."""
    assert Trial().trial_id == "lstm-small-s0-44136fa3"
    assert Trial(architecture="gru", preset="smoke", seed=3, epochs=2).trial_id == "gru-smoke-s3-dbd303fc"


def test_an_id_is_equal_in_another_process():
    program = "from lvm_pipeline.training.trial import Trial; print(Trial(model={'b': 1, 'a': [0.5]}).trial_id)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == Trial(model={"a": (0.5,), "b": 1.0}).trial_id


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({"learning_rate": 1}, {"learning_rate": 1.0}),
        ({"model": {"hidden_dim": 24, "dropout": 0.0}}, {"model": {"dropout": "0", "hidden_dim": "24"}}),
        ({"epochs": 8}, {}),
        ({"seed": "4"}, {"seed": 4}),
    ],
    ids=str,
)
def test_equal_options_have_equal_ids(values, same):
    assert Trial(**values).trial_id == Trial(**same).trial_id


@pytest.mark.parametrize("name", sorted(set(Trial.model_fields) - {"architecture", "preset"}))
def test_every_option_of_a_trial_is_part_of_its_id(name):
    other = {
        "model": {"hidden_dim": 24},
        "strategy": "progressive",
        "strategy_options": {"a": 1},
        "mode": "windows",
        "objective": "mse",
        "selection_metric": "mse",
        "precision": "float32",
    }
    default = Trial.model_fields[name].default
    value = other.get(name, 0.5 if default is None or isinstance(default, float) else 7)
    value = 7 if name == "batch_size" else value
    assert Trial(**{name: value}).trial_id != Trial().trial_id


@pytest.mark.parametrize("changes", [{"device": "cpu"}, {"num_threads": 7}, {"compile": True}], ids=str)
def test_options_of_the_machine_are_not_part_of_the_id(changes):
    assert TrainingConfig(**changes).trial == Trial()
    assert TrainingConfig(**changes).trial_id == Trial().trial_id


def test_a_trial_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Trial().seed = 3


def test_an_identity_leads_back_to_the_trial():
    trial = training_config({"model.scales": "[0.5]", "architecture": "gru", "epochs": 3, "device": "cpu"}).trial
    assert Trial(**trial.identity()) == trial
