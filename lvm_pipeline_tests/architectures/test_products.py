"""Products with packed weights equal plain products."""

import pytest
import torch

from lvm_pipeline.architectures import _products
from lvm_pipeline.architectures._products import MAX_ROWS, MIN_TIMES, packed_weights, repeated_product
from lvm_pipeline.architectures._registry import architecture_names
from lvm_pipeline_tests.architectures.models import is_recurrent, noise, noisy_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("rows", "times"), [(3, MIN_TIMES), (MAX_ROWS + 1, MIN_TIMES), (3, 1)])
def test_equals_the_plain_product(dtype, rows, times):
    torch.manual_seed(0)
    weight, bias, inputs = (
        torch.randn(24, 17, dtype=dtype),
        torch.randn(24, dtype=dtype),
        torch.randn(5, 17, dtype=dtype),
    )
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float64: 1e-12}[dtype]
    for matrix, vectors in ((weight, inputs), (weight.T, torch.randn(2, 24, dtype=dtype))):
        found = repeated_product(matrix, rows=rows, times=times)(vectors)
        torch.testing.assert_close(found, vectors @ matrix.T, rtol=tolerance, atol=tolerance)
    found = repeated_product(weight, bias, rows=rows, times=times)(inputs)
    torch.testing.assert_close(found, inputs @ weight.T + bias, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", architecture_names())
def test_a_model_that_is_laid_out_predicts_the_same_and_is_itself_again(name):
    model = noisy_model(name, dtype=torch.float32).eval()
    context = noise(1, 5, model.config.vector_dim, dtype=torch.float32)

    def predicted():
        torch.manual_seed(0)
        with torch.inference_mode():
            return model(context), model.prefill(context)[0] if is_recurrent(name) else None

    before, of_prefill = predicted()
    with packed_weights(model):
        torch.testing.assert_close(predicted()[0], before, rtol=1e-4, atol=1e-5)
        if of_prefill is not None:
            torch.testing.assert_close(predicted()[1], of_prefill, rtol=1e-4, atol=1e-5)
    assert torch.equal(predicted()[0], before)


def test_few_rows_are_multiplied_with_the_laid_out_matrix_and_others_are_not(monkeypatch):
    linear, calls = torch.nn.Linear(8, 3), []
    monkeypatch.setattr(_products, "repeated_product", lambda *given, **options: lambda inputs: calls.append(inputs))
    with packed_weights(torch.nn.Sequential(linear)):
        with torch.inference_mode():
            linear(torch.ones(5, 8))
            assert linear(torch.ones(MAX_ROWS + 1, 8)) is not None
            assert linear.double()(torch.ones(5, 8, dtype=torch.float64)) is not None
        assert linear(torch.ones(5, 8, dtype=torch.float64)).requires_grad
    assert [tuple(inputs.shape) for inputs in calls] == [(5, 8)]
