import importlib
from importlib.util import find_spec

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Models this small only lose by sharing work, thirtyfold where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def require_package():
    """Skip the test where a package is not installed."""

    def require(name):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")

    return require


@pytest.fixture(scope="module")
def transformers(require_package):
    """The package that ours are compared with."""
    require_package("transformers")
    return importlib.import_module("transformers")
