"""Every training option can be set through every door, and means the same trial behind each."""

import enum
import re
from pathlib import Path

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.architectures._config import FROM_DATA, BackboneConfig, meanings
from lvm_pipeline.architectures._registry import ARCHITECTURES
from lvm_pipeline.cli import options
from lvm_pipeline.defs.launchpad import TrainingOptions, settings_with
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import load_settings
from lvm_pipeline.training.config import NESTED, TrainingConfig
from lvm_pipeline.training.option_table import as_markdown, training_options
from lvm_pipeline.training.strategies import strategy_names
from lvm_pipeline.training.trial import Trial

ROOT = Path(__file__).parent.parent
VALUES = {
    "architecture": "gru",
    "preset": "smoke",
    "strategy": "plain",
    "mode": "windows",
    "objective": "cosine + 0.1 mse",
    "epochs": 3,
    "patience": 2,
    "selection_metric": "mse",
    "batch_size": 64,
    "learning_rate": 0.005,
    "correction_learning_rate_factor": 0.5,
    "weight_decay": 0.1,
    "warmup_fraction": 0.1,
    "final_learning_rate_fraction": 0.2,
    "clip_norm": 2.0,
    "ema_decay": 0.99,
    "precision": "float32",
    "seed": 7,
    "device": "cpu",
    "num_threads": 1,
    "compile": True,
    "checkpoint_seconds": 5.0,
    "launcher": "torchrun",
    "num_processes": 3,
    "shard_weights": True,
    "checkpoints_kept": 4,
    "model": {"hidden_dim": 24},
    "strategy_options": {"stages": 3},
}


def text_of(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def by_command_line(name, value, monkeypatch):
    if name in NESTED:
        ((inner, value),) = value.items()
        name = f"{name}.{inner}"
    return options.settings_of(set_options=[f"{name}={text_of(value)}"])


def by_environment(name, value, monkeypatch):
    variable = f"LVM_{name.upper()}"
    if name in NESTED:
        ((inner, value),) = value.items()
        variable = f"{variable}__{inner.upper()}"
    monkeypatch.setenv(variable, text_of(value))
    return load_settings()


def by_launchpad(name, value, monkeypatch):
    kind = TrainingOptions.model_fields[name].annotation
    if name == "strategy":
        value = [kind.__args__[0](value)]
    elif isinstance(kind, enum.EnumMeta):
        value = kind(value)
    elif name == "model":
        value = kind(**value)
    return settings_with(load_settings(), TrainingOptions(**{name: value}), {name})


DOORS = [
    (name, door)
    for name in TrainingConfig.model_fields
    for door in (by_command_line, by_environment, by_launchpad)
    if (name, door) != ("architecture", by_launchpad)  # the partition chooses it
]


@pytest.mark.parametrize(("name", "door"), DOORS)
def test_every_option_is_set_through_every_door(name, door, monkeypatch):
    config = lineage.training_config_of(door(name, VALUES[name], monkeypatch))

    assert getattr(config, name) == VALUES[name]
    assert config.trial_id == TrainingConfig(**{name: VALUES[name]}).trial_id


@pytest.mark.parametrize("name", [name for name in meanings(BackboneConfig) if name not in FROM_DATA])
def test_the_launchpad_shows_the_options_that_all_models_share(name):
    assert TrainingOptions.model_fields["model"].annotation.model_fields[name].description


def test_several_strategies_are_a_list_in_the_launchpad():
    (strategy,) = TrainingOptions.model_fields["strategy"].annotation.__args__
    options = TrainingOptions(strategy=[strategy("tmd"), strategy("progressive")])

    assert settings_with(load_settings(), options, {"strategy"}).strategy == "progressive+tmd"


def test_the_launchpad_lists_every_preset_and_strategy():
    presets, strategies = (TrainingOptions.model_fields[name].annotation for name in ("preset", "strategy"))

    assert {each.value for each in presets} == {name for each in ARCHITECTURES.values() for name in each.presets}
    assert {each.value for each in strategies.__args__[0]} == set(strategy_names())


def test_the_launchpad_describes_every_option():
    assert all(field.description for field in TrainingOptions.model_fields.values())
    assert set(TrainingOptions.model_fields) == {*TrainingConfig.model_fields, "again"} - {"architecture"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epoch", r"'epoch'; did you mean epochs\?$"),
        ("modle.hidden_dim", r"; did you mean model\.hidden_dim\?$"),
        ("colour", "'colour'; there are architecture, preset, model, .*checkpoint_seconds"),
    ],
)
def test_a_wrong_name_gives_the_nearest_option_or_lists_all(name, hint, monkeypatch):
    with pytest.raises(LvmError, match=f"There is no training option .*{hint}"):
        options.settings_of(set_options=[f"{name}=1"])
    monkeypatch.setenv("LVM_EPOCH", "1")
    with pytest.raises(LvmError, match="LVM_EPOCH is not a setting; did you mean LVM_EPOCHS"):
        lineage.training_config_of(load_settings())


def test_the_earlier_name_of_the_mode_is_still_read(monkeypatch):
    monkeypatch.setenv("LVM_TRAINING_MODE", "windows")
    assert load_settings().mode == "windows"
    monkeypatch.setenv("LVM_MODE", "")  # as good as unset
    assert load_settings().mode == "windows"
    monkeypatch.setenv("LVM_MODE", "articles")
    assert load_settings().mode == "articles"


def test_the_docs_list_every_option_as_it_is_declared():
    assert (ROOT / "docs" / "training-options.md").read_text(encoding="utf-8") == as_markdown(), "run `make docs`"
    assert {option.name for option in training_options("gru")} >= {"epochs", "model.hidden_dim", "seed"}
    assert all(option.meaning for option in training_options("lcm_two_tower"))


def test_the_docs_name_every_option_outside_the_trial_id_and_every_strategy_that_excludes_others():
    text = as_markdown()
    (outside,) = re.findall(r"All options are part of the trial id, except (.*?\n.*?)\.\n", text)
    assert set(re.findall(r"`(\w+)`", outside)) == set(TrainingConfig.model_fields) - set(Trial.model_fields)
    assert "the phases (curriculum, fine_tune, progressive)" in text


def test_what_the_architecture_does_not_decide_is_not_said_to_be_its_default():
    defaults = {option.name: option.default for option in training_options("gru")}
    assert defaults["learning_rate"] == "(architecture's)"
    assert defaults["num_processes"] == defaults["shard_weights"] == "(automatic)"
