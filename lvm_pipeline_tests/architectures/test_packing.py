"""A packed batch holds every needed position once, and comes back as it was."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.architectures._packing import Packing, needed_lengths


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_packs_what_is_needed_and_puts_it_back(lengths):
    states = torch.randn(len(lengths), 7, 2)
    is_needed = torch.arange(7) < torch.tensor(lengths)[:, None]
    packing = Packing.of(len(lengths), 7, torch.tensor(lengths))
    packed = packing.pack(states)
    assert len(packed) == sum(packing.sizes) == sum(lengths)
    assert packing.sizes == sorted(packing.sizes, reverse=True)
    assert torch.equal(packing.unpack(packed), states * is_needed[..., None])


def test_a_context_keeps_its_rank_from_position_to_position():
    packing = Packing.of(3, 4, torch.tensor([2, 4, 3]))
    contexts = torch.arange(3)[:, None, None].expand(3, 4, 1)
    by_position = [part.flatten().tolist() for part in packing.pack(contexts).split(packing.sizes)]
    assert by_position == [[1, 2, 0], [1, 2, 0], [1, 2], [1]]


def test_a_batch_without_padding_needs_no_index():
    for lengths in (None, torch.tensor([4, 4])):
        packing = Packing.of(2, 4, lengths)
        states = torch.randn(2, 4, 3)
        assert packing.indices is None
        assert torch.equal(packing.unpack(packing.pack(states)), states)


@given(st.data(), st.integers(1, 5), st.integers(1, 6))
def test_some_positions_come_back_row_by_row(data, num_contexts, length):
    flags = st.lists(st.booleans(), min_size=num_contexts * length, max_size=num_contexts * length)
    at = torch.tensor(data.draw(flags)).view(num_contexts, length)
    states = torch.randn(num_contexts, length, 2)
    packing = Packing.of(num_contexts, length, needed_lengths(at))
    assert torch.equal(packing.unpack_at(packing.pack(states), at), states[at])
