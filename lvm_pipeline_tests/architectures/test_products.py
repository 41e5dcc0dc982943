"""Products with a matrix that is laid out once equal the plain ones."""

import pytest
import torch

from lvm_pipeline.architectures._products import MAX_ROWS, MIN_TIMES, repeated_product


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
