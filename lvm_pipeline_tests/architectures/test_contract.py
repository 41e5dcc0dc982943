import subprocess
import sys

import pytest
import torch

from lvm_pipeline.architectures._config import meanings
from lvm_pipeline.architectures._contract import Architecture, LatentVectorModel, ModelConfig, Preset, config_with
from lvm_pipeline.architectures._registry import (
    ARCHITECTURES,
    PRESET,
    all_model_names,
    architecture_names,
    load_architecture,
    preset_names,
)
from lvm_pipeline.architectures.lstm import LstmConfig
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures.models import loss_on


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vector_dim", 0),
        ("hidden_dim", -4),
        ("num_layers", 0),
        ("dropout", 1.0),
        ("dropout", float("nan")),
        ("correction_rank", 0),
        ("scales", (0.5, 1.5)),
        ("condition_dim", -1),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_the_value_seen(field, value):
    with pytest.raises(LvmError) as caught:
        LstmConfig(**{field: value})
    assert field in str(caught.value)
    assert str(value) in str(caught.value)


def test_overrides_replace_fields():
    config = config_with(LstmConfig(), {"hidden_dim": 64, "correction_rank": 8, "dropout": 0, "scales": ()})
    assert config == LstmConfig(hidden_dim=64, correction_rank=8, dropout=0, scales=())
    assert config_with(config, {"correction_rank": None}).correction_rank is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"hidden": 64}, ["no field 'hidden'; did you mean hidden_dim?"]),
        ({"hidden_dim": "64"}, ["hidden_dim", "whole number", "'64'"]),
        ({"hidden_dim": 64.5}, ["hidden_dim", "whole number", "64.5"]),
        ({"hidden_dim": True}, ["hidden_dim", "True"]),
        ({"hidden_dim": None}, ["hidden_dim", "None"]),
        ({"head": "residual"}, ["head", "mixing, means, none"]),
        ({"unit_length": 1}, ["unit_length", "true or false"]),
        ({"dropout": "much"}, ["dropout", "number"]),
        ({"hidden_dim": 0}, ["hidden_dim", "at least 1"]),
    ],
)
def test_overrides_that_cannot_work_are_refused(overrides, words):
    with pytest.raises(LvmError) as caught:
        config_with(LstmConfig(), overrides)
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(LvmError, match=", ".join(ARCHITECTURES)):
        load_architecture("lstmm")
    with pytest.raises(LvmError, match="smoke, small, full"):
        load_architecture("lstm").preset("huge")
    with pytest.raises(KeyError):
        ARCHITECTURES["lstmm"]


def test_names_are_found_without_importing_torch():
    code = (
        "import sys; from lvm_pipeline.architectures._registry import architecture_names, ARCHITECTURES;"
        "print(architecture_names() == list(ARCHITECTURES) and len(ARCHITECTURES) >= 2 and 'torch' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_machinery_is_no_architecture():
    assert not [name for name in architecture_names() if name.startswith("_")]
    assert {"lstm", "gru"} <= set(architecture_names())


class OneWeight(LatentVectorModel):
    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, contexts, condition=None, at=None):
        predictions = contexts * self.weight
        return predictions if at is None else predictions[at]


def declared(**changes):
    presets = {name: Preset(config=ModelConfig(), num_params=1) for name in ("smoke", "small", "full")}
    values = {
        "name": "one",
        "summary": "one weight",
        "sources": ("here",),
        "config_class": ModelConfig,
        "presets": presets,
        "build_model": OneWeight,
        "reference": lambda model, contexts: contexts * model.weight,
    }
    return Architecture(**{**values, **changes})


def test_a_declaration_needs_every_preset_and_its_own_config():
    with pytest.raises(ValueError, match="full"):
        declared(presets={"smoke": Preset(config=ModelConfig(), num_params=1)})
    with pytest.raises(ValueError, match="LstmConfig"):
        declared(config_class=LstmConfig)


def test_another_architectures_config_is_refused():
    with pytest.raises(LvmError, match="ModelConfig, got a LstmConfig"):
        declared().build(LstmConfig())


def test_a_model_without_head_or_state_fits_the_contract():
    model = declared().build(ModelConfig())
    model.fit(torch.ones(3, 4))
    model.set_weighted_mean(decay=0.5, article_weight=0.0)
    contexts = torch.ones(2, 3, 4)
    assert loss_on(model, contexts, contexts, torch.ones(2, 3, dtype=torch.bool), objective="mse") == 0
    with pytest.raises(LvmError, match="carries no state"):
        model.step(contexts[:, 0])


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_every_field_of_a_config_says_what_it_means(architecture):
    assert [name for name, (_, meaning) in meanings(architecture.config_class).items() if not meaning] == []


def test_names_of_presets_are_found_without_importing_however_a_file_is_formatted():
    assert set(preset_names()) == {preset for name in all_model_names() for preset in load_architecture(name).presets}
    assert PRESET.findall("presets={'a':Preset(x), \"b\" : Preset(y),\n  'c':\n    Preset(z)}") == ["a", "b", "c"]
