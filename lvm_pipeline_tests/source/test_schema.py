import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.source.schema import Tmd, pack_tmd, source_metadata, unpack_tmd


@given(st.integers(0, 15), st.integers(0, 31), st.integers(0, 63))
def test_tmd_codes_survive_packing_into_a_smallint(domain, task, modifier):
    bits = pack_tmd(Tmd(domain, task, modifier))
    assert 0 <= bits < 2**15
    assert unpack_tmd(bits) == (domain, task, modifier)


def test_packing_is_the_one_that_data_holds():
    assert unpack_tmd(30738) == (15, 0, 18)


@pytest.mark.parametrize("codes", [(16, 0, 0), (0, 32, 0), (0, 0, 64), (-1, 0, 0)])
def test_codes_out_of_range_are_refused(codes):
    with pytest.raises(ValueError, match="TMD"):
        pack_tmd(Tmd(*codes))


@pytest.mark.parametrize("bits", [-1, 1 << 15])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="packed"):
        unpack_tmd(bits)


def test_tables_take_the_names_given():
    metadata = source_metadata(entry_table="other.entries", vector_table="vectors")
    assert set(metadata.tables) == {"other.entries", "vectors"}
    assert "sequence_index" in metadata.tables["other.entries"].c
    quoted = source_metadata(entry_table='"my data"."a.b"', vector_table="v").tables["my data.a.b"]
    assert (quoted.schema, quoted.name) == ("my data", "a.b")
