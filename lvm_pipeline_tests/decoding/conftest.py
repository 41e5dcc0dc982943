"""What the tests of decoders share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Small products on several threads wait for each other while other tests keep the machine busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
