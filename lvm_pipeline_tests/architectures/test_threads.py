import threading
import time

import pytest
import torch

from lvm_pipeline.architectures._threads import side_by_side, torch_threads


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_item_is_taken_once(num_threads):
    found = []
    with torch_threads(2):
        side_by_side(found.append, iter(range(50)), num_threads=num_threads)
        assert torch.get_num_threads() == 2
    assert sorted(found) == list(range(50))


def test_threads_share_those_of_pytorch():
    found = set()
    with torch_threads(4):
        side_by_side(lambda _: found.add(torch.get_num_threads()), range(8), num_threads=2)
        assert torch.get_num_threads() == 4
    assert found == {2}


def test_no_further_item_is_taken_after_an_error():
    taken, has_failed = [], threading.Event()

    def fail_at_the_first(item):
        taken.append(item)
        if item == 0:
            has_failed.set()
            raise ValueError("broken")
        has_failed.wait()
        time.sleep(0.05)

    with pytest.raises(ValueError, match="broken"):
        side_by_side(fail_at_the_first, range(100), num_threads=2)
    assert len(taken) < 10


def test_an_error_of_what_brings_the_items_is_raised():
    def items():
        yield 0
        raise OSError("no such batch")

    with pytest.raises(OSError, match="no such batch"):
        side_by_side(lambda _: None, items(), num_threads=2)
