"""S4D against the authors' layer."""

import pytest
import torch

from lvm_pipeline.architectures import _long_convolution, s4
from lvm_pipeline.architectures._contract import declared_settings
from lvm_pipeline.architectures.s4 import S4Config, S4Mixer, reference_state_space
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import build
from lvm_pipeline_tests.architectures.oracles import OPERATOR_TOLERANCE, PRECISIONS, assert_equals, below, leaf, oracle


@pytest.fixture(scope="module")
def recorded():
    return oracle("s4d", "s4d")


def with_oracle_weights(recorded, dtype):
    mixer = S4Mixer(S4Config(hidden_dim=12, state_dim=16)).to(dtype)
    mixer.load_state_dict(weight_maps.s4d_mixer(below(recorded, "w")), strict=True)
    return mixer


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("longest_product", [64, 16])
def test_layer_equals_the_oracle_and_so_do_the_gradients(recorded, dtype, longest_product, monkeypatch):
    for module in (s4, _long_convolution):
        monkeypatch.setattr(module, "LONGEST_PRODUCT", longest_product)
    mixer, tolerance = with_oracle_weights(recorded, dtype), OPERATOR_TOLERANCE[dtype]
    inputs = leaf(recorded["in.u"], dtype)

    assert_equals(mixer.state_space.kernel(inputs.shape[1]), recorded["out.kernel"], tolerance)
    assert_equals(mixer.state_space(inputs), recorded["out.core"], tolerance)
    found = mixer(inputs)
    assert_equals(found, recorded["out.layer"], tolerance)

    (found * recorded["in.gout"]).sum().backward()
    assert_equals(inputs.grad, recorded["grad.u"], tolerance)
    expected = weight_maps.s4d_mixer(below(recorded, "grad.w"))
    assert set(expected) == {name for name, _ in mixer.named_parameters()}
    for name, parameter in mixer.named_parameters():
        assert_equals(parameter.grad, expected[name], tolerance)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("longest_product", [64, 16])
def test_state_equals_the_oracle(recorded, dtype, longest_product, monkeypatch):
    monkeypatch.setattr(s4, "LONGEST_PRODUCT", longest_product)
    space, tolerance = with_oracle_weights(recorded, dtype).state_space, OPERATOR_TOLERANCE[dtype]
    inputs = recorded["in.u"].to(dtype)
    first, state = space.prefill(inputs[:, :20], None)
    second, state = space.prefill(inputs[:, 20:], state)
    assert_equals(torch.cat([first, second], dim=1), recorded["out.core"], tolerance)
    assert_equals(state.real, recorded["out.state_re"], tolerance)
    assert_equals(state.imag, recorded["out.state_im"], tolerance)


def test_slow_twin_equals_the_oracle(recorded):
    space = with_oracle_weights(recorded, torch.float64).state_space
    found = reference_state_space(space, recorded["in.u"].double())
    assert_equals(found, recorded["out.core"], OPERATOR_TOLERANCE[torch.float64])


def test_kernel_learns_slowly_and_does_not_decay():
    settings = {name.split(".")[-1]: setting for name, _, setting in declared_settings(build("s4"))}
    for name in ("log_dt", "log_A_real", "A_imag", "C"):
        assert not settings[name].weight_decay
        assert settings[name].learning_rate_factor <= 0.5
