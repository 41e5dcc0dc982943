import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from lvm_pipeline.adapters.vector_columns import parse_tmd, parse_vectors
from lvm_pipeline.errors import LvmError

HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)
UNIFORM = st.integers(1, 9).flatmap(
    lambda width: st.lists(st.lists(HALVES, min_size=width, max_size=width), max_size=9)
)
MIXED = st.lists(st.none() | st.lists(HALVES, max_size=5), max_size=9)


def as_pgvector(vector, letter):
    return None if vector is None else struct.pack(f">HH{len(vector)}{letter}", len(vector), 0, *vector)


def parse(column, type_name):
    ids = [f"c{row}" for row in range(len(column))]
    return parse_vectors(column, type_name=type_name, cpe_ids=ids, name="v.concept_vec")


@given(UNIFORM | MIXED, st.sampled_from([("vector", "f"), ("halfvec", "e")]), st.integers(0, 3))
def test_binary_vectors_come_back_as_they_were(vectors, kind, num_cut):
    type_name, letter = kind
    column = pa.array([as_pgvector(vector, letter) for vector in vectors], pa.binary())

    parsed = parse(column.slice(num_cut), type_name)

    assert parsed.to_pylist() == vectors[num_cut:]
    assert parsed.type == pa.large_list(pa.float32())


@given(MIXED, st.sampled_from([pa.float32(), pa.float64()]), st.integers(0, 3))
def test_arrays_come_back_as_they_were(vectors, number, num_cut):
    column = pa.array(vectors, pa.list_(number))

    assert parse(column.slice(num_cut), "_float8").to_pylist() == vectors[num_cut:]


@given(numpy_strategies.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_json_text_keeps_every_bit(vectors):
    texts = ["[" + ", ".join(repr(float(number)) for number in vector) + "]" for vector in vectors]

    parsed = parse(pa.array([texts[0], None, *texts[1:]]), "text")

    assert parsed.is_null().to_pylist() == [False, True, False, False]
    assert parsed.flatten().to_numpy().tobytes() == vectors.tobytes()


def test_a_missing_number_is_no_number():
    parsed = parse(pa.array([[1.0, None]], pa.list_(pa.float32())), "_float4")

    np.testing.assert_array_equal(parsed.flatten().to_numpy(), [1.0, np.nan])


def test_tmd_vectors_have_sixteen_numbers_or_none():
    lists = pa.array([[0.5] * 16, None], pa.large_list(pa.float32()))

    assert parse_tmd(lists, name="v.tmd_dense").to_pylist() == [[0.5] * 16, None]
    with pytest.raises(LvmError, match=r"v.tmd_dense holds a vector of width 2, expected 16"):
        parse_tmd(pa.array([[0.5] * 16, [1.0, 2.0]], pa.large_list(pa.float32())), name="v.tmd_dense")
