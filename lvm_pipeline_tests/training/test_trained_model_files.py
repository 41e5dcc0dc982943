"""A trained model is what it says it is, or it is not loaded."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lvm_pipeline.architectures import lstm
from lvm_pipeline.architectures._contract import count_parameters
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.architectures.lstm import LstmConfig
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.trained_model import (
    IDENTITY_KEY,
    class_name,
    config_from_json,
    load_trained_model,
    read_header,
    read_trained_model_info,
    save_trained_model,
)

QUICK = {"preset": "smoke", "model": {"hidden_dim": 16, "num_layers": 1}, "epochs": 1, "num_threads": 1}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train(TrainingConfig(**QUICK), data, output_dir=tmp_path_factory.mktemp("trained") / "lstm").path


@pytest.fixture
def model_dir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "lstm")


def edit_info(model_dir, **changes):
    path = model_dir / "trained_model.json"
    values = json.loads(path.read_text())
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(values))


def test_loads_what_was_saved(model_dir):
    model, info = load_trained_model(model_dir, architecture="lstm", space_id="synthetic")
    assert not model.training
    weights = load_file(model_dir / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert info == read_trained_model_info(model_dir)
    assert class_name(model) == info.model_class


def test_who_may_read_the_record_may_read_the_weights(trained):
    assert len({path.stat().st_mode for path in trained.iterdir() if path.is_file()}) == 1


def test_weights_and_classes_may_have_the_names_of_earlier_versions(model_dir, tmp_path):
    architecture = load_architecture("lcm_two_tower")
    model = architecture.build(architecture.preset("smoke").config)
    info = dataclasses.replace(
        read_trained_model_info(model_dir),
        architecture=architecture.name,
        model_class=class_name(model).replace("PointwiseAttention", "SelfAlone"),
        config=dataclasses.asdict(model.config),
        num_params=count_parameters(model),
    )
    earlier = {
        name.replace("input_projection", "enter").replace("output_projection", "leave"): tensor
        for name, tensor in model.state_dict().items()
    }
    save_trained_model(tmp_path / "earlier", earlier, info)

    loaded, _ = load_trained_model(tmp_path / "earlier")

    assert "enter.weight" in earlier
    assert "SelfAlone" in info.model_class
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("wanted", [{"architecture": "gru"}, {"space_id": "gtr-t5-base"}])
def test_another_model_than_asked_for_is_refused(model_dir, wanted):
    with pytest.raises(LvmError, match=f"not {next(iter(wanted.values()))}"):
        load_trained_model(model_dir, **wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"space_id": "gtr-t5-base"},
        {"config": {"dropout": 0.25}},  # same keys, same shapes
        {"config": {"scales": [0.1, 0.3, 0.5, 0.85, 0.93]}},
        {"config": {"unit_length": False}},
    ],
    ids=str,
)
def test_weights_of_another_config_or_space_are_refused_though_keys_and_shapes_fit(model_dir, changes):
    edit_info(model_dir, **changes)
    with pytest.raises(LvmError, match="do not belong to the record beside them"):
        load_trained_model(model_dir)


def test_weights_of_another_class_are_refused_though_keys_and_shapes_fit(model_dir):
    weights, header = load_file(model_dir / "model.safetensors"), read_header(model_dir / "model.safetensors")
    identity = {**json.loads(header[IDENTITY_KEY]), "model_class": "somewhere.OtherModel"}
    save_file(weights, model_dir / "model.safetensors", metadata={IDENTITY_KEY: json.dumps(identity, sort_keys=True)})
    with pytest.raises(LvmError, match="OtherModel"):
        load_trained_model(model_dir)
    save_file(weights, model_dir / "model.safetensors")
    with pytest.raises(LvmError, match="unknown origin"):
        load_trained_model(model_dir)


def test_parts_of_another_class_make_another_model_though_keys_and_shapes_fit(model_dir, monkeypatch):
    class Backwards(lstm.LstmLayers):
        def forward(self, states):
            return super().forward(states.flip(1))

    monkeypatch.setattr(lstm, "LstmLayers", Backwards)
    Backwards.__module__ = lstm.__name__
    with pytest.raises(LvmError, match=r"was a .*LstmLayers.* would now be a .*Backwards"):
        load_trained_model(model_dir)


@pytest.mark.parametrize("architecture", ["gru", "retnet"])
def test_a_record_of_another_architecture_is_refused(model_dir, architecture):
    edit_info(model_dir, architecture=architecture)
    with pytest.raises(LvmError, match=r"would now be a|do not belong|has no field|lacks"):
        load_trained_model(model_dir)


def test_another_architecture_whose_keys_and_shapes_fit_is_refused(model_dir, monkeypatch):
    twin = dataclasses.replace(lstm.ARCHITECTURE, name="lstm_twin")
    monkeypatch.setattr("lvm_pipeline.training.trained_model.load_architecture", lambda name: twin)
    edit_info(model_dir, architecture="lstm_twin")
    with pytest.raises(LvmError, match="do not belong to the record beside them"):
        load_trained_model(model_dir)


@pytest.mark.parametrize("changes", [{"model_class": "somewhere.OtherModel"}, {"num_params": 1}])
def test_changed_model_code_is_detected(model_dir, changes):
    edit_info(model_dir, **changes)
    with pytest.raises(LvmError, match="would now be a"):
        load_trained_model(model_dir)


@pytest.mark.parametrize("name", ["model.safetensors", "trained_model.json"])
def test_a_damaged_or_missing_file_is_reported(model_dir, name):
    path = model_dir / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LvmError, match=f"{name} cannot be read"):
        load_trained_model(model_dir)
    path.unlink()
    with pytest.raises(LvmError, match=r"There is no trained model in|cannot be read"):
        load_trained_model(model_dir)


def test_a_record_of_another_version_or_without_a_field_is_reported(model_dir):
    edit_info(model_dir, schema_version=0)
    with pytest.raises(LvmError, match="schema version 1"):
        load_trained_model(model_dir)
    (model_dir / "trained_model.json").write_text('{"schema_version": 1}')
    with pytest.raises(LvmError, match="lacks architecture"):
        load_trained_model(model_dir)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trial": {"precision": "float16"}}, "precision: input should be 'auto', 'float32' or 'bfloat16'"),
        ({"trial": 3}, "trial: input should be"),
        ({"members": [{"trial_id": "gru-small-s0-1"}]}, r"members\.0\."),
        ({"fingerprints": None}, "fingerprints: input should be"),
        ({"training": 3}, "training: input should be"),
    ],
    ids=str,
)
def test_a_value_that_no_record_has_is_reported(model_dir, changes, words):
    edit_info(model_dir, **changes)
    with pytest.raises(LvmError, match=rf"trained_model\.json cannot be read \({words}.*train the model again"):
        read_trained_model_info(model_dir)


def test_a_recorded_config_comes_back_as_it_was():
    config = LstmConfig(scales=(0.25,), correction_rank=4, dropout=0.5)
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert config_from_json(LstmConfig, values) == config
    values.pop("dropout")
    with pytest.raises(LvmError, match="lacks dropout"):
        config_from_json(LstmConfig, values)


def test_saving_replaces_the_whole_folder(model_dir):
    info = read_trained_model_info(model_dir)
    (model_dir / "stray.txt").write_text("from an earlier training")
    save_trained_model(model_dir, load_file(model_dir / "model.safetensors"), info)
    assert sorted(path.name for path in model_dir.iterdir()) == ["model.safetensors", "trained_model.json"]
    assert load_trained_model(model_dir)[1] == info
