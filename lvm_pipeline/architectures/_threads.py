"""PyTorch's threads inside a block, and several blocks side by side."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Use so many threads inside the block, and as many as before after it; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(function: Callable[[Item], None], items: Iterable[Item], *, num_threads: int) -> None:
    """Call a function with every item in so many threads, each with its share of PyTorch's threads.

    An item is taken when a thread is free for it. Threads of one operation wait for each other at its end, so two
    batches in a thread each take less time than one after the other with both.
    """
    num_torch_threads = torch.get_num_threads()
    if num_threads < 2:
        for item in items:
            function(item)
        return
    coming, lock = iter(items), threading.Lock()

    def work(_: int) -> None:
        torch.set_num_threads(max(1, num_torch_threads // num_threads))
        while True:
            with lock:
                item = next(coming, end)
            if item is end:
                return
            function(item)  # pyright: ignore[reportArgumentType]

    end = object()
    with torch_threads(None), ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(work, range(num_threads)))
