"""The numbers of compiled loops against NumPy's and PyTorch's."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numba import njit

from lvm_pipeline.architectures import _loops
from lvm_pipeline.architectures._arrays import as_array
from lvm_pipeline.architectures._loops import compiled, exp, narrow, sigmoid, tanh, wide

EVERYWHERE = np.concatenate([np.linspace(-120, 120, 20_001), np.linspace(-1, 1, 20_001), [0.0, -0.0]])
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 3.4e38, 1e-40, 1.00390625, 1.01171875]


def applied(function, values):
    @njit(error_model="numpy")
    def loop(values, out):
        for k in range(len(values)):
            out[k] = function(values[k])

    out = np.empty_like(values)
    loop(values, out)
    return out


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 1.3e-7), (np.float64, 3e-16)])
def test_exp_is_exact_to_the_last_place(dtype, error):
    values = EVERYWHERE[np.abs(EVERYWHERE) < 87].astype(dtype)
    expected = np.exp(values.astype(np.longdouble))
    assert np.abs(applied(exp, values) / expected - 1).max() < error


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 2.5e-7), (np.float64, 5e-16)])
def test_sigmoid_and_tanh(dtype, error):
    values = EVERYWHERE.astype(dtype)
    wide_values = values.astype(np.longdouble)
    assert np.abs(applied(sigmoid, values) - 1 / (1 + np.exp(-wide_values))).max() < error
    assert np.abs(applied(tanh, values) - np.tanh(wide_values)).max() < error


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_no_number_stays_none(dtype):
    values = np.array([np.nan, np.inf, -np.inf], dtype)
    np.testing.assert_array_equal(applied(tanh, values), np.array([np.nan, 1, -1], dtype))
    assert np.isnan(applied(exp, values)[0])


def test_bfloat16_is_rounded_as_by_torch():
    values = torch.cat([torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor(SPECIAL)])

    @njit
    def loop(values, out, back):
        for k in range(len(values)):
            out[k] = narrow(values[k], out[0])
            back[k] = wide(out[k])

    found, back = torch.empty(len(values), dtype=torch.bfloat16), torch.empty_like(values)
    loop(values.numpy(), as_array(found), back.numpy())
    torch.testing.assert_close(found, values.bfloat16(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(back, values.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


def test_compiles_where_nothing_can_be_kept(monkeypatch):
    def without_cache(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'twice': no locator available for file '/loops.py'")
        return njit(**options)

    monkeypatch.setattr(_loops, "njit", without_cache)
    assert compiled(lambda value: 2 * value)(21) == 42


def test_predictions_do_without_numba():
    program = (
        "import sys, torch\n"
        "from lvm_pipeline.architectures._registry import load_architecture\n"
        "for name in ('lstm', 'gru'):\n"
        "    architecture = load_architecture(name)\n"
        "    model = architecture.build(architecture.preset('smoke').config).eval()\n"
        "    with torch.no_grad():\n"
        "        model(torch.randn(1, 5, 768)), model(torch.randn(4, 9, 768))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
