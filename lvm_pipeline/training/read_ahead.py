"""Have the system read the vectors of coming batches from disk while the model computes.

On a CPU, the vectors are a memory-mapped file, and those that are not in memory are read from disk when they are used.
`madvise` announces the rows of the next batches, so that the system reads them while the model computes. Batches and
trained weights are the same either way, bit for bit. If all vectors are in memory, the calls cost a few microseconds
per span.

`madvise` of the C library is called by address, since neither NumPy nor PyTorch offers it.
"""

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor

from lvm_pipeline.training.spans import Spans

BATCHES_AHEAD = 2
RANDOM, NORMAL, WILL_NEED = (getattr(mmap, f"MADV_{name}", None) for name in ("RANDOM", "NORMAL", "WILLNEED"))


def read_ahead(vectors: Tensor, batches: Sequence[Spans]) -> Iterator[Spans]:
    """Yield the spans of every batch while the system reads the vectors (N, D) of the next two."""
    is_on_disk = vectors.device.type == "cpu" and WILL_NEED is not None
    for number, spans in enumerate(batches):
        first = 0 if number == 0 else number + BATCHES_AHEAD
        for coming in batches[first : number + BATCHES_AHEAD + 1] if is_on_disk else ():
            for row, length in zip(coming.first_rows.tolist(), coming.lengths.tolist(), strict=True):
                _advise(vectors, row, length + 1, WILL_NEED)
        yield spans


@contextmanager
def read_in_any_order(vectors: Tensor) -> Iterator[None]:
    """Announce random access to the vectors inside the block, which turns the system's own read-ahead off."""
    is_on_disk = vectors.device.type == "cpu" and RANDOM is not None and NORMAL is not None
    if not is_on_disk:
        yield
        return
    _advise(vectors, 0, len(vectors), RANDOM)
    try:
        yield
    finally:
        _advise(vectors, 0, len(vectors), NORMAL)


def _advise(vectors: Tensor, row: int, num_rows: int, advice: int | None) -> None:
    """Pass advice on some rows to the system, which may ignore it."""
    row_bytes = vectors.stride(0) * vectors.element_size()
    first = vectors.data_ptr() + row * row_bytes
    start = first - first % mmap.PAGESIZE
    _madvise()(ctypes.c_void_p(start), ctypes.c_size_t(first + num_rows * row_bytes - start), advice)


@cache
def _madvise() -> Any:
    return ctypes.CDLL(None).madvise
