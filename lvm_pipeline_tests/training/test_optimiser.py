import subprocess
import sys

import pytest
import torch

from lvm_pipeline.architectures._contract import OptimiserSetting
from lvm_pipeline.architectures._ranking_head import RankingHead
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.optimiser import BETAS, make_optimiser, set_learning_rate
from lvm_pipeline_tests.architectures.models import build

CONFIG = TrainingConfig(learning_rate=0.01, correction_learning_rate_factor=0.5, weight_decay=0.1)


def settings_by_name(model, config=CONFIG):
    optimiser = make_optimiser(model, config)
    group_of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    found = {name: group_of[id(p)] for name, p in model.named_parameters()}
    return {name: (group["learning_rate_factor"], group["weight_decay"]) for name, group in found.items()}


def test_the_correction_is_slower_than_the_arithmetic():
    found = settings_by_name(build("lstm", head="means"))
    assert found["residual_head.decay"] == (1.0, 0.0)
    assert found["mixers.layers.weight_ih_l0"] == (0.5, 0.1)


def test_the_head_has_three_learning_rates():
    found = settings_by_name(build("lstm"))
    names = ("query.weight", "query.bias", "gains", "score_scale", "lag_bias")
    assert [found[f"residual_head.{name}"] for name in names] == [
        (1.0, 0.1),
        (1.0, 0.0),
        (0.1, 0.0),
        (40.0, 0.0),
        (40.0, 0.0),
    ]


def test_without_a_head_there_is_no_correction_to_slow():
    assert settings_by_name(build("lstm", head="none"))["output_projection.0.weight"] == (1.0, 0.1)


def test_vectors_have_no_weight_decay():
    assert settings_by_name(build("lstm"))["mixers.layers.bias_ih_l0"] == (0.5, 0.0)


def test_a_module_declares_how_its_parameters_are_treated():
    model = build("lstm")
    model.mixers.layers.optimiser_settings = {
        "weight_hh_l0": OptimiserSetting(weight_decay=False, learning_rate_factor=0.1),
    }
    found = settings_by_name(model)
    assert found["mixers.layers.weight_hh_l0"] == (pytest.approx(0.05), 0.0)
    assert found["mixers.layers.weight_hh_l1"] == (0.5, 0.1)


@pytest.mark.parametrize("name", ["layers", "no_such_weight"])
def test_a_declared_name_that_is_no_parameter_is_refused(name):
    model = build("lstm")
    model.mixers.optimiser_settings = {name: OptimiserSetting(weight_decay=False)}
    with pytest.raises(ValueError, match=rf"mixers declares an optimiser setting for {name}, which is no parameter"):
        make_optimiser(model, CONFIG)


def test_a_ranking_head_declares_settings_of_its_own_parameters():
    model = build("lstm")
    model.add_module("ranking_head", RankingHead(model.config.vector_dim))
    assert "ranking_head.hidden.weight" in settings_by_name(model)


def test_every_parameter_is_in_one_group():
    model = build("gru")
    grouped = [p for group in make_optimiser(model, CONFIG).param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(model.parameters()))


def test_the_learning_rate_rises_and_falls_as_a_cosine():
    optimiser = torch.optim.AdamW(
        [{"params": [torch.nn.Parameter(torch.ones(1))], "learning_rate_factor": 0.5}], lr=1.0
    )
    config = TrainingConfig(learning_rate=0.01, warmup_fraction=0.2, final_learning_rate_fraction=0.1)
    rates = {at: set_learning_rate(optimiser, config, peak=0.01, done_fraction=at) for at in (0.1, 0.2, 0.6, 1.0)}
    assert rates == pytest.approx({0.1: 0.005, 0.2: 0.01, 0.6: 0.0055, 1.0: 0.001})
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.0005)


def test_steps_are_those_of_torch():
    def trained(make):
        torch.manual_seed(0)
        model = build("lstm")
        optimiser = make(model)
        for _ in range(3):
            optimiser.zero_grad()
            model(torch.ones(2, 4, model.config.vector_dim)).sum().backward()
            optimiser.step()
            optimiser.load_state_dict(optimiser.state_dict())
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def of_torch(model):
        ours = make_optimiser(model, CONFIG)
        options = {"lr": CONFIG.learning_rate, "betas": BETAS, "fused": True}
        return torch.optim.AdamW([dict(group) for group in ours.param_groups], **options)

    assert torch.equal(trained(lambda model: make_optimiser(model, CONFIG)), trained(of_torch))


def test_neither_models_nor_optimisers_import_the_compiler():
    code = """
import sys
import torch
from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.invariants import preset_has_its_declared_size
from lvm_pipeline.training.optimiser import make_optimiser

architecture = load_architecture("mamba2")
assert preset_has_its_declared_size(architecture, "smoke").passed
model = architecture.build(architecture.presets["smoke"].config)
optimiser = make_optimiser(model, TrainingConfig(learning_rate=0.1))
optimiser.zero_grad()
model(torch.ones(1, 2, model.config.vector_dim)).sum().backward()
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
