import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.concepts.numbering import (
    article_starts,
    number_by_rank,
    number_by_source,
    read_ahead,
    whole_articles,
)
from lvm_pipeline.errors import LvmError

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def batches_of(article_ids, sizes):
    """Cut a column of article ids into batches of the given sizes, the last one taking the rest."""
    start = 0
    for size in [*sizes, len(article_ids)]:
        yield pa.record_batch({"article_id": article_ids[start : start + size]}, schema=SCHEMA)
        start += size


SCHEMA = pa.schema([("article_id", pa.string())])


@given(LENGTHS, st.lists(st.integers(0, 7), max_size=20))
def test_no_article_is_ever_cut_and_no_row_lost(lengths, sizes):
    ids = [f"a{number}" for number, length in enumerate(lengths) for _ in range(length)]

    pieces = [batch["article_id"].to_pylist() for batch in whole_articles(batches_of(ids, sizes))]

    assert [article_id for piece in pieces for article_id in piece] == ids
    assert sum(len(set(piece)) for piece in pieces) == len(lengths), "an article lies in two batches"
    assert all(pieces)


def test_a_stream_without_rows_gives_nothing():
    assert list(whole_articles(batches_of([], [0, 0]))) == []


def plain_numbers(lengths, source_positions, kept):
    """Number row by row: the source's number, less one for each number before it that vanished with all its rows."""
    numbers, row = [], 0
    for length in lengths:
        rows = range(row, row + length)
        alive = {source_positions[r] for r in rows if kept[r]}
        numbers += [
            p - len({source_positions[r] for r in rows if source_positions[r] < p} - alive)
            for p in source_positions[row : row + length]
        ]
        row += length
    return numbers


@given(LENGTHS, st.data())
def test_dropped_concepts_close_up_and_gaps_of_the_source_stay(lengths, data):
    steps = [data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)) for n in lengths]
    source_positions = np.concatenate([np.cumsum(step) for step in steps])
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths))))
    starts = np.cumsum([0, *lengths[:-1]])

    numbers = number_by_source(starts, source_positions, kept, first_position=0)

    assert numbers[kept].tolist() == np.array(plain_numbers(lengths, source_positions, kept))[kept].tolist()


@given(LENGTHS, st.data())
def test_ranks_count_the_kept_concepts_of_each_article_from_zero(lengths, data):
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths))))
    starts = np.cumsum([0, *lengths[:-1]])

    numbers = number_by_rank(starts, kept)

    for start, length in zip(starts, lengths, strict=True):
        mine = slice(start, start + length)
        assert numbers[mine][kept[mine]].tolist() == list(range(kept[mine].sum()))


def test_numbering_from_one_becomes_numbering_from_zero():
    numbers = number_by_source(np.array([0, 3]), np.array([1, 2, 4, 1, 2]), np.ones(5, bool), first_position=1)

    assert numbers.tolist() == [0, 1, 3, 0, 1]


def test_a_number_that_counts_nothing_is_refused():
    with pytest.raises(LvmError, match="5000000000"):
        number_by_source(np.array([0]), np.array([5_000_000_000]), np.ones(1, bool), first_position=0)


def test_article_starts_are_the_rows_where_a_run_begins():
    assert article_starts(pa.array(["a", "a", "b", "c", "c"])).tolist() == [0, 2, 3]


def test_reading_ahead_gives_everything_in_order():
    ids = [f"a{number}" for number in range(50)]

    batches = list(read_ahead(batches_of(ids, [3] * 12)))

    assert [article_id for batch in batches for article_id in batch["article_id"].to_pylist()] == ids


def test_an_error_while_reading_ahead_arrives_after_what_was_read():
    def source():
        yield from batches_of(["a"], [])
        raise LvmError("gone")

    reading = read_ahead(source())

    assert next(reading).num_rows == 1
    with pytest.raises(LvmError, match="gone"):
        next(reading)


def test_reading_ahead_stops_with_its_consumer():
    asked = []

    def source():
        for number in range(100):
            asked.append(number)
            yield pa.record_batch({"article_id": [str(number)]}, schema=SCHEMA)

    before = set(threading.enumerate())
    reading = read_ahead(source())
    next(reading)
    begun = set(threading.enumerate()) - before
    reading.close()

    assert len(asked) <= 3
    assert [thread.name.partition("_")[0] for thread in begun] == ["read-ahead"]
    assert not any(thread.is_alive() for thread in begun)
