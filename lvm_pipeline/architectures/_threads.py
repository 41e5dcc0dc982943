"""Set the number of PyTorch's threads, and call a function in several threads."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Use this number of threads inside the block, and the previous number after it; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(function: Callable[[Item], None], items: Iterable[Item], *, num_threads: int) -> None:
    """Call a function with every item in several threads, each with its share of PyTorch's threads.

    PyTorch's threads wait for each other after every operation. Two batches in two threads of one PyTorch thread each
    therefore take less time than one after the other with two.
    """
    if num_threads < 2:
        for item in items:
            function(item)
        return
    num_torch_threads = max(1, torch.get_num_threads() // num_threads)
    coming, end, lock, is_over = iter(items), object(), threading.Lock(), threading.Event()

    def work(_: int) -> None:
        torch.set_num_threads(num_torch_threads)
        try:
            while not is_over.is_set():
                with lock:
                    item = next(coming, end)
                if item is end:
                    return
                function(item)  # pyright: ignore[reportArgumentType]
        finally:  # after an error, the other threads stop, too
            is_over.set()

    with torch_threads(None), ThreadPoolExecutor(num_threads) as threads:
        try:
            list(threads.map(work, range(num_threads)))
        finally:  # Ctrl-C
            is_over.set()
