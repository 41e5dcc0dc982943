"""Run blocks in threads; NumPy releases the GIL in products and comparisons."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_info, threadpool_limits

Item = TypeVar("Item")
Found = TypeVar("Found")


def in_threads(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Map a function over items, in order, in as many threads as a product would use; products inside use one each."""
    num_threads = max((each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"), default=1)
    if num_threads < 2:
        return [function(item) for item in items]
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(function, items))
