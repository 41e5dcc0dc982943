"""An optional kernel is used where it gives what the torch form gives, and never else; here with kernels made up."""

import sys
import types
import warnings
from dataclasses import replace

import pytest
import torch

from lvm_pipeline.architectures import _delta_rule, _mamba2_mixer, retnet
from lvm_pipeline.architectures._kernels import OptionalKernel

CPU = torch.device("cpu")
KERNELS = {
    "mamba2": _mamba2_mixer.STATE_SPACE,
    "retnet": retnet.RETENTION,
    "rwkv": _delta_rule.DELTA_RULE,
}


def made_up_mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, dt_bias=None, initial_states=None, dt_softplus=False, return_final_states=False
):
    """As mamba-ssm's: the state is (B, K, P, N), and comes back only when it is asked for."""
    assert dt_softplus
    assert return_final_states
    state = None if initial_states is None else initial_states.mT
    y, state = _mamba2_mixer.torch_state_space(x, dt, A, B, C, D, dt_bias=dt_bias, state=state, returns_state=True)
    return y, state.mT


def made_up_chunk_retention(q, k, v, scale=None, initial_state=None, output_final_state=False):
    assert scale == 1.0
    return retnet.torch_retention(q, k, v, state=initial_state, returns_state=output_final_state)


def made_up_chunk_rwkv7(r, w, k, v, a, b, scale=1.0, initial_state=None, output_final_state=False, lower_bound=None):
    assert lower_bound <= w.min() < w.max() < 0
    return _delta_rule.torch_delta_rule(r, w, k, v, a, b, state=initial_state, returns_state=output_final_state)


MADE_UP = {
    "mamba2": made_up_mamba_chunk_scan_combined,
    "retnet": made_up_chunk_retention,
    "rwkv": made_up_chunk_rwkv7,
}


@pytest.fixture(params=KERNELS)
def name(request):
    return request.param


@pytest.fixture
def install(monkeypatch):
    """Make a function importable under the name of a kernel; return the kernel, not yet looked at."""

    def install(kernel: OptionalKernel, function) -> OptionalKernel:
        module, _, function_name = kernel.name.rpartition(".")
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            package = types.ModuleType(".".join(parts[:length]))
            package.__path__ = []
            package.__spec__ = types.SimpleNamespace(name=package.__name__)
            monkeypatch.setitem(sys.modules, package.__name__, package)
        setattr(sys.modules[module], function_name, function)
        return replace(kernel, _forms={})

    return install


def test_a_kernel_that_agrees_is_used(name, install):
    kernel = install(KERNELS[name], MADE_UP[name])

    form = kernel.checked_form(CPU)

    assert form is not kernel.torch_form
    assert kernel.checked_form(CPU) is form
    tensors = kernel.example(CPU)
    found, expected = (each(**tensors, returns_state=True) for each in (form, kernel.torch_form))
    torch.testing.assert_close(found, expected)


def test_a_context_that_continues_from_nothing_is_the_same(name, install):
    kernel = install(KERNELS[name], MADE_UP[name])
    tensors = {key: value for key, value in kernel.example(CPU).items() if key != "state"}

    torch.testing.assert_close(kernel.checked_form(CPU)(**tensors)[0], kernel.torch_form(**tensors)[0])


def with_wrong_outputs(function):
    return lambda *given, **named: (1.05 * function(*given, **named)[0], function(*given, **named)[1])


def with_wrong_state(function):
    return lambda *given, **named: (function(*given, **named)[0], 0.9 * function(*given, **named)[1])


def with_wrong_gradients(function):
    def wrong(*given, **named):
        y, state = function(*given, **named)
        return y.detach() + 1.1 * (y - y.detach()), state

    return wrong


def with_no_numbers(function):
    return lambda *given, **named: tuple(each * torch.nan for each in function(*given, **named))


@pytest.mark.parametrize("spoil", [with_wrong_outputs, with_wrong_state, with_wrong_gradients, with_no_numbers])
def test_a_kernel_that_differs_is_dropped_with_a_warning(name, install, spoil):
    kernel = install(KERNELS[name], spoil(MADE_UP[name]))

    with pytest.warns(RuntimeWarning, match=f"{kernel.name} differs from the PyTorch implementation"):
        assert kernel.checked_form(CPU) is kernel.torch_form
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel.checked_form(CPU) is kernel.torch_form  # told once


def test_a_kernel_that_fails_is_dropped_with_a_warning(name, install):
    def fails(*given, **named):
        raise RuntimeError("not for this GPU\nand more")

    kernel = install(KERNELS[name], fails)

    with pytest.warns(RuntimeWarning, match=r"fails \(not for this GPU\)"):
        assert kernel.checked_form(CPU) is kernel.torch_form


def test_a_package_of_another_version_is_reported(name, install, monkeypatch):
    kernel = install(KERNELS[name], None)
    module, _, function_name = kernel.name.rpartition(".")
    monkeypatch.delattr(sys.modules[module], function_name)

    with pytest.warns(RuntimeWarning, match=f"fails .*{function_name}"):
        assert kernel.checked_form(CPU) is kernel.torch_form


def test_an_optional_package_that_is_missing_is_not_reported(name):
    kernel = replace(KERNELS[name], name="not_installed.kernel", _forms={})

    assert kernel.checked_form(CPU) is kernel.torch_form


def test_tensors_on_a_cpu_never_ask_for_a_kernel(name, install):
    kernel = install(KERNELS[name], MADE_UP[name])

    assert kernel.form_for(torch.empty(2, 500, 3)) is kernel.torch_form
    assert kernel._forms == {}


class OnGpu(types.SimpleNamespace):
    is_cuda, device = True, CPU


@pytest.mark.parametrize(
    ("length", "dtype", "uses_kernel"),
    [(64, torch.float32, False), (65, torch.float32, True), (65, torch.bfloat16, True), (65, torch.float64, False)],
)
def test_a_kernel_is_for_long_contexts_of_a_gpu(name, install, length, dtype, uses_kernel):
    kernel = install(KERNELS[name], MADE_UP[name])

    form = kernel.form_for(OnGpu(shape=(2, length, 3), dtype=dtype))

    assert (form is not kernel.torch_form) == uses_kernel


@pytest.mark.gpu
def test_an_installed_kernel_agrees_on_this_gpu(name, require_package):
    kernel = KERNELS[name]
    require_package(kernel.name.partition(".")[0])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel.checked_form(torch.device("cuda")) is not kernel.torch_form
