import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.training.batches import batches, gather, group_spans, vectors_on_device
from lvm_pipeline.training.data import Spans

SEED = st.integers(0, 5)


def spans_of(lengths):
    lengths = np.array(lengths, dtype=np.int64)
    return Spans(first_rows=np.cumsum(lengths + 1) - lengths - 1, lengths=lengths, first_targets=np.zeros_like(lengths))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100), SEED)
def test_every_run_is_in_one_batch(lengths, batch_size, seed):
    for rng in (None, np.random.default_rng(seed)):
        groups = group_spans(spans_of(lengths), batch_size, rng=rng)
        assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
        assert all(len(group) for group in groups)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100), SEED)
def test_a_batch_has_about_so_many_targets(lengths, batch_size, seed):
    spans = spans_of(lengths)
    for group in group_spans(spans, batch_size, rng=np.random.default_rng(seed)):
        # The even size is at most half as large again as what was asked for; a span is not cut.
        assert spans.num_targets[group].sum() <= 2 * batch_size + 2 * spans.lengths[group].max()


def padded_fraction(spans, groups):
    padded = sum(int(spans.lengths[group].max()) * len(group) for group in groups)
    return 1 - int(spans.lengths.sum()) / padded


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_almost_nothing_is_padded(rng):
    """Lengths as they are in an encyclopedia: a median of 30 concepts, a long tail."""
    lengths = np.clip(np.random.default_rng(1).lognormal(np.log(30), 0.9, 1100).astype(int), 1, 500)
    spans = spans_of(lengths)
    assert padded_fraction(spans, group_spans(spans, 400, rng=rng)) < 0.04
    at_random = np.array_split(np.random.default_rng(2).permutation(len(spans)), 100)
    assert padded_fraction(spans, at_random) > 0.5


def test_epochs_differ_and_repeat_with_their_seed():
    spans = spans_of(np.random.default_rng(0).integers(1, 40, 200))
    one, other, again = (group_spans(spans, 50, rng=np.random.default_rng([0, epoch])) for epoch in (1, 2, 1))
    assert [list(group) for group in one] == [list(group) for group in again]
    assert {frozenset(group) for group in one} != {frozenset(group) for group in other}


def test_a_batch_holds_contexts_and_the_vectors_after_them():
    vectors = torch.arange(40.0).reshape(20, 2)
    spans = Spans(first_rows=np.array([3, 10]), lengths=np.array([2, 4]), first_targets=np.array([0, 3]))
    batch = gather(vectors, spans)
    assert batch.is_target.tolist() == [[True, True, False, False], [False, False, False, True]]
    torch.testing.assert_close(batch.contexts[1], vectors[10:14])
    torch.testing.assert_close(batch.targets[1], vectors[11:15])
    torch.testing.assert_close(batch.contexts[0, :2], vectors[3:5])
    torch.testing.assert_close(batch.targets[0, :2], vectors[4:6])


def test_the_last_article_of_the_table_can_be_padded():
    vectors = torch.randn(6, 2)
    spans = Spans(first_rows=np.array([4, 0]), lengths=np.array([1, 3]), first_targets=np.array([0, 0]))
    assert torch.isfinite(gather(vectors, spans).contexts).all()


def test_targets_come_in_the_order_of_their_runs():
    vectors, spans = torch.randn(60, 3), spans_of([5, 9, 1, 20])
    for indices, batch in batches(vectors, spans, 10):
        rows = torch.from_numpy(spans.take(indices).target_rows())
        torch.testing.assert_close(batch.targets[batch.is_target], vectors[rows])


def test_vectors_on_a_cpu_are_not_copied(data):
    placed = vectors_on_device(data.vectors, "cpu")
    assert placed.data_ptr() == data.vectors.ctypes.data
