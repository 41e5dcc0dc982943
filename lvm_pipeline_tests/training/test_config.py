import dataclasses

import pytest
import torch

from lvm_pipeline.architectures._contract import TrainingDefaults
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig, training_config
from lvm_pipeline.training.settle import DEFAULTS, settled

LSTM = load_architecture("lstm")
SEES_THE_FUTURE = dataclasses.replace(LSTM, causal=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "chapters"),
        ("precision", "float8"),
        ("epochs", 0),
        ("patience", 0),
        ("num_threads", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("correction_learning_rate_factor", -1.0),
        ("clip_norm", 0.0),
        ("weight_decay", -0.1),
        ("checkpoint_seconds", -1.0),
        ("warmup_fraction", 1.0),
        ("final_learning_rate_fraction", 1.5),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_a_value_that_cannot_work_is_refused(name, value):
    with pytest.raises(LvmError, match=f"{name}: .* got {value!r}"):
        training_config({name: value})


def test_an_unknown_option_is_an_error_with_a_hint():
    with pytest.raises(LvmError, match=r"'epoch'; did you mean epochs\?$"):
        training_config({"epoch": 1})
    assert training_config({"epochs": "3"}).epochs == 3


def test_dotted_names_reach_into_the_model():
    config = training_config({"model.hidden_dim": "24", "model": {"num_layers": 1}, "model.scales": "[0.0, 0.5]"})
    assert config.model == {"hidden_dim": 24, "num_layers": 1, "scales": [0, 0.5]}
    with pytest.raises(LvmError, match=r"model must be a mapping.* set model\.NAME=VALUE"):
        training_config({"model": "wide"})


@pytest.mark.parametrize(
    ("asked", "architecture", "is_leaking", "mode"),
    [
        ("auto", LSTM, False, "articles"),
        ("auto", LSTM, True, "windows"),
        ("auto", SEES_THE_FUTURE, False, "windows"),
        ("windows", LSTM, False, "windows"),
    ],
)
def test_the_mode_follows_architecture_and_data(asked, architecture, is_leaking, mode):
    config = settled(TrainingConfig(mode=asked), architecture=architecture, is_leaking=is_leaking)
    assert config.mode == mode


@pytest.mark.parametrize("mode", ["articles", "windows"])
def test_what_is_left_open_follows_the_architecture_and_then_the_mode(mode):
    own = {"articles": TrainingDefaults(batch_size=7, learning_rate=0.5)}
    architecture = dataclasses.replace(LSTM, training_defaults=own)
    config = settled(TrainingConfig(mode=mode), architecture=architecture, is_leaking=False)
    expected = {**DEFAULTS, **own}[mode]
    assert (config.batch_size, config.learning_rate) == (expected.batch_size, expected.learning_rate)
    given = TrainingConfig(mode=mode, batch_size=3, learning_rate=0.25)
    config = settled(given, architecture=architecture, is_leaking=False)
    assert (config.batch_size, config.learning_rate) == (3, 0.25)


@pytest.mark.parametrize(("architecture", "is_leaking"), [(LSTM, True), (SEES_THE_FUTURE, False)])
def test_articles_are_refused_where_they_cannot_be_read(architecture, is_leaking):
    with pytest.raises(LvmError, match="train with mode windows"):
        settled(TrainingConfig(mode="articles"), architecture=architecture, is_leaking=is_leaking)


def test_device_and_precision_are_settled_for_this_machine():
    config = settled(TrainingConfig(), architecture=LSTM, is_leaking=False)
    has_gpu = torch.cuda.is_available()
    has_products = has_gpu or torch.cpu._is_avx512_bf16_supported()
    assert config.device == ("cuda" if has_gpu else "cpu")
    assert config.precision == ("bfloat16" if has_products else "float32")
    assert settled(TrainingConfig(precision="float32"), architecture=LSTM, is_leaking=False).precision == "float32"


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta", "gpu0"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(LvmError, match=device):
        settled(TrainingConfig(device=device), architecture=LSTM, is_leaking=False)
