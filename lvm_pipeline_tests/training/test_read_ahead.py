"""Coming batches are read from disk before they are used; nothing else is."""

import ctypes
import mmap
import os
import time

import numpy as np
import pytest
import torch

from lvm_pipeline.training.batches import batches, group_spans
from lvm_pipeline.training.read_ahead import BATCHES_AHEAD, read_ahead, read_in_any_order
from lvm_pipeline.training.spans import Spans

WIDTH = 1024  # a row is one page of 4 kB
ARTICLE = 32
NUM_ARTICLES = 64


@pytest.fixture
def vectors(tmp_path):
    """Vectors in a file that is not in the page cache."""
    path = tmp_path / "vectors.npy"
    with path.open("wb") as file:
        file.write(np.arange(NUM_ARTICLES * ARTICLE * WIDTH, dtype=np.float32).data)
        file.flush()
        os.fsync(file.fileno())
        if not hasattr(os, "posix_fadvise"):
            pytest.skip("the page cache cannot be dropped here")
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    tensor = torch.from_numpy(np.memmap(path, np.float32, mode="c").reshape(-1, WIDTH))
    if resident_articles(tensor).any():
        pytest.skip("the page cache cannot be dropped here")
    return tensor


def resident_rows(vectors):
    """Whether each row is in memory, (N,)."""
    num_bytes = vectors.numel() * 4
    pages = (ctypes.c_ubyte * (num_bytes // mmap.PAGESIZE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(vectors.data_ptr()), ctypes.c_size_t(num_bytes), pages) == 0
    return (np.frombuffer(pages, np.uint8) & 1).astype(bool)


def resident_articles(vectors):
    """Whether each article is in memory as a whole, (A,)."""
    return resident_rows(vectors).reshape(NUM_ARTICLES, -1).all(axis=1)


def spans_of(articles):
    first_rows = np.asarray(articles) * ARTICLE
    return Spans(
        first_rows=first_rows,
        lengths=np.full(len(first_rows), ARTICLE - 1),
        first_targets=np.zeros(len(first_rows), np.int64),
    )


def eventually(condition):
    """Whether a condition holds within some seconds; the system reads on its own."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_two_batches_are_read_before_they_are_asked_for(vectors):
    order = np.random.default_rng(0).permutation(NUM_ARTICLES)[:30].reshape(10, 3)
    with read_in_any_order(vectors):
        coming = read_ahead(vectors, [spans_of(articles) for articles in order])
        for number, articles in enumerate(order):
            spans = next(coming)
            np.testing.assert_array_equal(spans.first_rows, articles * ARTICLE)
            wanted = order[: number + BATCHES_AHEAD + 1].ravel()
            assert eventually(lambda wanted=wanted: resident_articles(vectors)[wanted].all())
            assert set(np.flatnonzero(resident_articles(vectors))) == set(wanted.tolist())


def test_batches_are_the_same_as_from_memory(vectors):
    spans = spans_of(np.arange(NUM_ARTICLES))
    from_memory = vectors.clone()

    with read_in_any_order(vectors):
        found = list(batches(vectors, spans, 100, rng=np.random.default_rng(3)))
    expected = group_spans(spans, 100, rng=np.random.default_rng(3))

    assert len(found) == len(expected) > 10
    for (indices, batch), wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(indices, wanted)
        assert torch.equal(batch.targets, from_memory[batch.rows])


def test_nothing_is_read_around_a_vector(vectors):
    with read_in_any_order(vectors):
        assert vectors[777].sum() > 0

    assert np.flatnonzero(resident_rows(vectors)).tolist() == [777]
