"""Hyena against the authors' operator."""

import pytest
import torch

from lvm_pipeline.architectures import _long_convolution
from lvm_pipeline.architectures._contract import declared_settings
from lvm_pipeline.architectures._implicit_filter import position_features
from lvm_pipeline.architectures._long_convolution import causal_convolution
from lvm_pipeline.architectures.hyena import HyenaConfig, HyenaOperator, reference_operator
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.architectures import weight_maps
from lvm_pipeline_tests.architectures.models import VECTOR_DIM, build, noise, noisy_model
from lvm_pipeline_tests.architectures.oracles import (
    OPERATOR_TOLERANCE,
    PRECISIONS,
    assert_equals,
    below,
    leaf,
    oracle,
)

CONFIGS = {
    "o2": HyenaConfig(hidden_dim=16, order=2, num_positions=64, num_bands=16, filter_dim=24),
    "o3": HyenaConfig(hidden_dim=16, order=3, num_positions=64, num_bands=1, filter_dim=24),
}
BY_PRODUCT_AND_BY_FFT = pytest.mark.parametrize("longest_product", [64, 16])


@pytest.fixture(params=list(CONFIGS))
def case(request):
    return request.param


def with_oracle_weights(case, dtype):
    recorded = oracle("hyena", case)
    operator = HyenaOperator(CONFIGS[case])
    operator.load_state_dict(weight_maps.hyena_operator(below(recorded, "w")), strict=True)
    return operator.to(dtype), recorded


@pytest.mark.parametrize("dtype", PRECISIONS)
@BY_PRODUCT_AND_BY_FFT
def test_long_convolution_equals_the_oracle(dtype, longest_product, monkeypatch):
    monkeypatch.setattr(_long_convolution, "LONGEST_PRODUCT", longest_product)
    recorded = oracle("hyena", "conv")
    inputs, kernel, skip = (recorded[f"in.{name}"].to(dtype) for name in ("u", "k", "D"))
    found = causal_convolution(inputs.transpose(1, 2), kernel).transpose(1, 2) + inputs * skip[:, None]
    assert_equals(found, recorded["out"], OPERATOR_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
@BY_PRODUCT_AND_BY_FFT
def test_operator_equals_the_oracle_and_so_do_the_gradients(case, dtype, longest_product, monkeypatch):
    monkeypatch.setattr(_long_convolution, "LONGEST_PRODUCT", longest_product)
    operator, recorded = with_oracle_weights(case, dtype)
    inputs, tolerance = leaf(recorded["in.u"], dtype), OPERATOR_TOLERANCE[dtype]

    assert_equals(operator.filter(inputs.shape[1]).T, recorded["out.filter"], tolerance)
    found = operator(inputs)
    assert_equals(found, recorded["out.y"], tolerance)

    (found * recorded["in.gout"]).sum().backward()
    assert_equals(inputs.grad, recorded["grad.u"], tolerance)
    expected = weight_maps.hyena_operator(below(recorded, "grad.w"))
    assert set(expected) == {name for name, _ in operator.named_parameters()}
    for name, parameter in operator.named_parameters():
        recorded_in = expected[name].dtype
        assert_equals(parameter.grad, expected[name], max(tolerance, OPERATOR_TOLERANCE[recorded_in]))


def test_slow_twin_equals_the_oracle(case):
    operator, recorded = with_oracle_weights(case, torch.float64)
    found = reference_operator(operator, recorded["in.u"].double())
    assert_equals(found, recorded["out.y"], OPERATOR_TOLERANCE[torch.float64])


def test_features_of_positions_start_as_the_authors_have_them():
    turns = torch.arange(64) / 64 * 2 * torch.pi
    bands = torch.exp(-1j * turns[:, None] * torch.linspace(1e-4, 15, 16))
    expected = torch.cat([torch.arange(64)[:, None] / 63, bands.real, bands.imag], dim=1)
    torch.testing.assert_close(position_features(64, 16), expected, rtol=0, atol=1e-5)
    decay = HyenaOperator(CONFIGS["o2"]).filter.decay
    torch.testing.assert_close(torch.exp(-decay[[0, -1]] * torch.tensor([1.5, 0.3])), torch.tensor([0.01, 0.01]))


def test_kernel_is_the_same_under_autocast():
    operator, _ = with_oracle_weights("o2", torch.float32)
    expected = operator.filter(37)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator.filter(37), expected)


def test_a_context_beyond_the_longest_kernel_is_refused():
    model = noisy_model("hyena", num_positions=8)
    assert model(noise(1, 8, VECTOR_DIM)).shape == (1, 8, VECTOR_DIM)
    with pytest.raises(LvmError, match="at most 8 concepts, got 9"):
        model(noise(1, 9, VECTOR_DIM))


def test_filter_learns_slowly_and_does_not_decay():
    settings = {name: setting for name, _, setting in declared_settings(build("hyena")) if ".filter." in name}
    assert settings
    for name, setting in settings.items():
        assert not setting.weight_decay
        assert setting.learning_rate_factor <= (0.01 if name.endswith("positions") else 0.5)
