import importlib
from importlib.util import find_spec

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _all_on_one_thread(one_thread):
    """Every module of this folder."""


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


@pytest.fixture
def noisy_memory():
    """New tensors hold NaN until something is written to them."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
