import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Models this small only lose by sharing work, thirtyfold where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
