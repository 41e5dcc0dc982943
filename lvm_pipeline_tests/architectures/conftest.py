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
def transformers():
    """The package that ours are compared with; the test is skipped where it is not installed."""
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    return importlib.import_module("transformers")
