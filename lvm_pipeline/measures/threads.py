"""Run blocks, or whole fits, in threads; NumPy releases the GIL in products and comparisons.

Much of a fit is not a large product, so a second thread makes it little faster. Two fits side by side with one thread
each therefore finish sooner than one after the other.
"""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Found = TypeVar("Found")
Other = TypeVar("Other")


def in_threads(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Map a function over items, in order, in as many threads as a product would use; products inside use one each."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    libraries = _blas_libraries(len(sys.modules))
    num_threads = max((each["num_threads"] for each in libraries.info()), default=1)
    if num_threads < 2:
        return [function(item) for item in items]
    with libraries.limit(limits=1), ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(function, items))


def both(one: Callable[[], Found], other: Callable[[], Other]) -> tuple[Found, Other]:
    """Call two functions side by side and return what each returned."""
    found: list[Any] = in_threads(lambda function: function(), [one, other])
    return found[0], found[1]


@lru_cache(maxsize=1)
def _blas_libraries(num_modules: int) -> ThreadpoolController:
    """Find the loaded libraries for products, again only when a module was imported, since that may have loaded one."""
    return ThreadpoolController().select(user_api="blas")
