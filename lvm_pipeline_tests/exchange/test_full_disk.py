"""A disk that fills up while a product is written: one sentence, and what was there stays."""

import resource
from contextlib import contextmanager

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange.npz_export import export_npz
from lvm_pipeline.exchange.npz_import import import_concepts_npz, import_sequences_npz
from lvm_pipeline.sequences.build import SequenceOptions, build_sequences
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

LENGTHS = [40] * 12


@contextmanager
def no_room_beyond(num_bytes):
    """Let no file grow beyond a size; the system's error is that of a full disk in all but its number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def paths(tmp_path):
    concepts_path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=LENGTHS, kind="noise")
    return concepts_path, write_synthetic_sequences(concepts_path, tmp_path / "sequences.parquet")


@pytest.mark.parametrize("num_bytes", [1, 500, 2000])
def test_sequences_that_do_not_fit_leave_the_earlier_ones(paths, num_bytes):
    before = paths[1].read_bytes()
    with no_room_beyond(num_bytes), pytest.raises(LvmError, match=r"disk .* is full"):
        build_sequences(*paths, options=SequenceOptions(context_length=4))
    assert paths[1].read_bytes() == before
    assert not [left for left in paths[1].parent.iterdir() if left.name.startswith(".")]


@pytest.mark.parametrize("num_bytes", [1, 20_000, 60_000])
def test_an_export_that_does_not_fit_leaves_nothing(paths, tmp_path, num_bytes):
    with no_room_beyond(num_bytes), pytest.raises(LvmError, match=r"disk .* is full"):
        export_npz(*paths, tmp_path / "npz")
    assert list((tmp_path / "npz").iterdir()) == []


def test_an_import_that_does_not_fit_leaves_what_was_there(paths, tmp_path):
    concepts_npz, _, sequences_npz = export_npz(*paths, tmp_path / "npz")
    before = paths[0].read_bytes()
    with no_room_beyond(20_000):
        with pytest.raises(LvmError, match=r"disk .* is full"):
            import_concepts_npz(concepts_npz, paths[0])
        with pytest.raises(LvmError, match=r"disk .* is full"):
            import_sequences_npz(sequences_npz, paths[0], paths[1])
    assert paths[0].read_bytes() == before
