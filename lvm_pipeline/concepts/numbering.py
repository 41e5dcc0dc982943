"""Prefetch a stream of source rows, regroup it into whole articles, and number their concepts.

Shapes: n = rows, all of whole articles.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError

LARGEST_POSITION = np.iinfo(np.int32).max


def read_ahead(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches, prefetching the next one in a thread."""
    iterator = iter(batches)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as executor:
        coming = executor.submit(next, iterator, None)
        while (batch := coming.result()) is not None:
            coming = executor.submit(next, iterator, None)
            yield batch


def whole_articles(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Regroup batches, in which each article is one run, so that no article is split between two batches."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        last = int(article_starts(batch.column("article_id"))[-1])
        is_going_on = bool(waiting) and waiting[-1].column("article_id")[-1] == batch.column("article_id")[0]
        if last or (waiting and not is_going_on):
            yield pa.concat_batches([*waiting, batch.slice(0, last)])
            waiting = [batch.slice(last)]
        else:
            waiting.append(batch)
    if waiting:
        yield pa.concat_batches(waiting)


def article_starts(article_ids: pa.Array) -> NDArray[np.int64]:
    """Return the first row of each run of an article."""
    return np.flatnonzero(np.diff(article_ids.dictionary_encode().indices.to_numpy(), prepend=-1))


def number_by_rank(starts: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the kept rows of each article from 0, shape (n,); dropped rows get the number of the next kept one."""
    before = np.cumsum(kept) - kept
    lengths = np.diff(starts, append=len(kept))
    return before - np.repeat(before[starts], lengths)


def number_by_source(
    starts: NDArray[np.int64], source_positions: NDArray[np.int64], kept: NDArray[np.bool_], *, first_position: int
) -> NDArray[np.int64]:
    """Number rows (n,) by their source positions, from 0; gaps are kept, except those of dropped concepts.

    Positions ascend inside an article and begin at `first_position`, 0 or 1. Numbers of dropped rows are undefined.

    Raises:
        LvmError: If a position does not fit int32.
    """
    positions = source_positions - first_position
    if len(positions) and np.abs(positions).max() > LARGEST_POSITION:
        raise LvmError(f"A position of {np.abs(positions).max()} is too large; set another LVM_POSITION_COLUMN.")
    if kept.all():
        return positions
    is_start = np.zeros(len(kept), np.bool_)
    is_start[starts] = True
    is_other_position = is_start | (np.diff(positions, prepend=0) != 0)
    group_starts = np.flatnonzero(is_other_position)
    is_vanished = ~np.logical_or.reduceat(kept, group_starts)  # every concept at that position was dropped
    vanished_before = np.cumsum(is_vanished) - is_vanished
    group_of_row = np.cumsum(is_other_position) - 1
    lengths = np.diff(starts, append=len(kept))
    before_article = np.repeat(vanished_before[group_of_row[starts]], lengths)
    return positions - (vanished_before[group_of_row] - before_article)
