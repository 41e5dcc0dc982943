"""Object arrays are read as values; nothing that a file asks for is ever executed."""

import builtins
import codecs
import contextlib
import datetime
import functools
import io
import os
import pickle  # noqa: TID251 - to make the files that are refused
import time
import tracemalloc
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline.exchange.npz_objects import RefusedObjectsError, read_objects

UTC = datetime.UTC


def array_of(values):
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def stored(values, protocol=4):
    """What NumPy 2 stores of an object array."""
    return pickle.dumps(array_of(values), protocol=protocol)


def as_numpy_1(content):
    """The same, with the module names of NumPy 1."""
    assert b"numpy._core.multiarray" in content
    content = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    return content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


TIMES = st.datetimes(timezones=st.sampled_from([None, UTC, datetime.timezone(datetime.timedelta(hours=-3), "X")]))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(min_size=1),
    st.uuids(),
    TIMES,
)
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(st.lists(NESTED, max_size=8), st.sampled_from([2, 3, 4]), st.booleans())
def test_plain_values_come_back(values, protocol, is_numpy_1):
    content = stored(values, protocol)
    content = as_numpy_1(content) if is_numpy_1 else content
    assert read_objects(content, num_entries=len(values)) == values


@pytest.mark.parametrize("rewrite", [lambda content: content, as_numpy_1])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numpy_values_become_plain_ones(rewrite, protocol):
    values = [np.float32(1.5), np.int64(7), np.str_("text"), np.bool_(True), np.float64(2.5), (1, (2,))]
    arrays = [np.arange(4, dtype=">f4"), np.array([["a", "bc"]]), np.asfortranarray(np.arange(6).reshape(2, 3))]
    got = read_objects(rewrite(stored(values + arrays, protocol)), num_entries=9)
    assert got[:6] == [1.5, 7, "text", True, 2.5, (1, (2,))]
    assert all(type(value) in {float, int, str, bool, tuple} for value in got[:6])
    for value, expected in zip(got[6:], arrays, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_one_object_may_stand_in_many_places():
    one = uuid.uuid4()
    assert read_objects(stored([one, one, one]), num_entries=3) == [one] * 3


def test_a_uuid_with_its_safety_as_an_object_is_read():
    """As Python 3.6 wrote it."""
    call = b"\x80\x03" + b"cuuid\nSafeUUID\nK\x00\x85R"
    content = pickle.dumps(array_of([uuid.UUID(int=5)]), protocol=3)
    at = content.index(b"X\x03\x00\x00\x00int")
    harmless = content[:at] + b"X\x07\x00\x00\x00is_safe" + call[2:] + b"s" + content[at:]
    assert read_objects(harmless, num_entries=1) == [uuid.UUID(int=5)]


def test_a_uuid_with_its_safety_is_read():
    unsafe = uuid.UUID(int=5, is_safe=uuid.SafeUUID.safe)
    assert read_objects(stored([unsafe]), num_entries=1) == [unsafe]


@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Call(os.system, "touch {marker}"), "posix.system"),
        (Call(builtins.eval, "open('{marker}', 'w')"), "eval"),
        (Call(builtins.exec, "open('{marker}', 'w')"), "exec"),
        (Call(builtins.getattr, "os", "system"), "getattr"),
        (Call(builtins.__import__, "os"), "__import__"),
        (Call(builtins.open, "{marker}", "w"), "open"),
        (Call(functools.partial, os.system, "touch {marker}"), "functools.partial"),
        (Call(np.load, "{marker}"), "numpy.load"),
        (Call(np.fromfile, "{marker}"), "fromfile"),
        (os.system, "posix.system"),
        (Call, "Call"),
        (np.ndarray.tofile, "getattr"),
        (datetime.date(2020, 1, 1), "datetime.date"),
        (uuid.uuid4, "uuid.uuid4"),
        (np.datetime64("2020-01-01"), "M8"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("rewrite", [lambda content: content, as_numpy_1])
def test_what_a_file_would_call_is_refused_by_name_and_not_called(tmp_path, evil, name, protocol, rewrite):
    marker = tmp_path / "marker"
    if isinstance(evil, Call):
        function, arguments = evil.parts
        evil = Call(function, *[a.format(marker=marker) if isinstance(a, str) else a for a in arguments])
    content = stored(["harmless", evil], protocol)
    if protocol < 5:
        content = rewrite(content)

    with pytest.raises(RefusedObjectsError, match=name if protocol < 5 or name != "M8" else "."):
        read_objects(content, num_entries=2)

    assert not marker.exists()


@pytest.mark.parametrize(
    "evil",
    [
        Call(np.dtype, "V999999999"),
        Call(np.dtype, "O,O"),
        Call(np.dtype, ("f4", (10**9,))),
        Call(np.dtype, [("a", "f4")]),
        Call(np.dtype, 5),
        Call(np.dtype),
        Call(np._core.multiarray._reconstruct, np.dtype, (0,), b"b"),
        Call(np._core.multiarray._reconstruct, np.ndarray),
        Call(np._core.multiarray.scalar, np.dtype("f4"), b"12345678"),
        Call(np._core.multiarray.scalar, np.dtype("O"), b""),
        Call(np._core.multiarray.scalar, "f4", b"1234"),
        Call(np._core.multiarray.scalar, np.dtype("U1"), b"\xff" * 4),
        Call(np._core.multiarray.scalar, np.dtype("f4"), b""),
        Call(np._core.multiarray.scalar, np.dtype("U0"), b""),
        Call(np.ndarray, (10**12,)),
        Call(np.ndarray, 3),
        Call(uuid.UUID, "not a uuid"),
        Call(uuid.SafeUUID, "safe"),
        Call(codecs.encode, "x", "utf-8"),
        Call(datetime.datetime, b"\xff" * 10),
        Call(datetime.datetime, b"123"),
        Call(datetime.datetime, 2020, 1, 1),
        Call(datetime.datetime, b"\x07\xe4\x01\x01\x00\x00\x00\x00\x00\x00", "UTC"),
        Call(datetime.timezone, 5),
        Call(datetime.timedelta, 10**12),
        Call(datetime.timedelta, "1"),
        Call(datetime.timedelta, *range(9)),
    ],
)
def test_bad_arguments_of_known_names_are_refused(evil):
    with pytest.raises(RefusedObjectsError):
        read_objects(stored([evil]), num_entries=1)


@pytest.mark.parametrize(
    "state",
    [
        (1, (10**12,), np.dtype("f4"), False, b"1234"),
        (1, (10**12,), np.dtype("O"), False, [1]),
        (1, (-1,), np.dtype("f4"), False, b""),
        (1, (1.0,), np.dtype("f4"), False, b"1234"),
        (1, (1,), "f4", False, b"1234"),
        (1, (1,), np.dtype("f4"), False, "1234"),
        (1, (1,), np.dtype("O"), False, (1,)),
        {"shape": (1,)},
        None,
    ],
)
def test_arrays_that_claim_what_they_are_not_are_refused(state):
    array = Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=state)
    with pytest.raises(RefusedObjectsError):
        read_objects(stored([array]), num_entries=1)


def test_states_for_known_objects_are_checked():
    for state in ({"int": -1}, {"int": 2**128}, {"int": "1"}, {"int": 1, "__class__": 3}, {}, 5):
        content = pickle.dumps(array_of([uuid.UUID(int=1)]), protocol=4)
        body = pickle.dumps(state, protocol=4)[2:-1]
        at = content.index(b"\x8c\x03int") - 3  # EMPTY_DICT, MEMOIZE before the key
        harmed = content[:at] + (body[9:] if body[:1] == b"\x95" else body) + b"b" + content[content.rindex(b"e") :]
        with pytest.raises(RefusedObjectsError):
            read_objects(harmed, num_entries=1)


MULTIARRAY = b"\x80\x04cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
DTYPE_O = b"cnumpy\ndtype\n\x8c\x01O\x89\x88\x87R"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc.",  # text of 4 EiB
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",  # bytes of 1 TiB
        b"\x80\x04\x96" + (2**40).to_bytes(8, "little") + b"abc.",  # bytearray of 1 TiB
        b"\x80\x04\x8b" + (2**31 - 1).to_bytes(4, "little") + b"\x01.",  # number of 2 GiB
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # memo of two billion places
        b"\x80\x04" + b"]" * 110_000 + b".",
        b"\x80\x04" + b"(" * 110_000 + b".",
        b"\x80\x04" + b"]" + b"\x85" * 20_000 + b".",
        b"\x80\x04(]\x94" + b"2" * 100 + b"e.",
    ],
)
def test_memory_bombs_are_refused_with_little_memory(content):
    tracemalloc.start()
    with pytest.raises(RefusedObjectsError):
        read_objects(content, num_entries=1)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64e6


def test_values_mentioned_again_and_again_are_refused():
    """A list of ten lists of ten lists ...: a few hundred bytes that would unfold to 10**12 values."""
    value = []
    for _ in range(12):
        value = [value] * 10
    with pytest.raises(RefusedObjectsError, match="too deeply or too often"):
        read_objects(stored([value]), num_entries=1)


def test_a_list_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(RefusedObjectsError, match="too deeply"):
        read_objects(stored([value]), num_entries=1)


@pytest.mark.parametrize("num_entries", [0, 2, 4])
def test_another_number_of_entries_is_refused(num_entries):
    with pytest.raises(RefusedObjectsError, match=f"3 entries where {num_entries}"):
        read_objects(stored([1, 2, 3]), num_entries=num_entries)


@pytest.mark.parametrize("value", ["text", [1], np.arange(3), None])
def test_a_pickle_of_another_kind_is_refused(value):
    with pytest.raises(RefusedObjectsError, match="not an array of objects"):
        read_objects(pickle.dumps(value, protocol=4), num_entries=1)


def test_bytes_after_the_end_are_refused():
    with pytest.raises(RefusedObjectsError, match="more bytes"):
        read_objects(stored([1]) + b"x", num_entries=1)


@given(st.data())
def test_damaged_bytes_are_refused_or_read_and_never_crash(data):
    content = bytearray(stored([uuid.UUID(int=7), datetime.datetime(2020, 1, 1, tzinfo=UTC), "a", np.float32(1)]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    with contextlib.suppress(RefusedObjectsError):
        read_objects(bytes(content), num_entries=4)


def test_the_harmless_twin_is_what_pickle_itself_reads():
    values = ["a", 1, 2.5, None, uuid.UUID(int=9), datetime.datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC, fold=1)]
    content = stored(values)
    theirs = pickle.load(io.BytesIO(content)).tolist()  # noqa: S301 - made two lines above
    assert read_objects(content, num_entries=len(values)) == theirs == values


def array_with(*opcodes):
    """An array of one entry, which is what the opcodes make."""
    content = pickle.dumps(array_of([None]), protocol=2)
    assert content.count(b"Na") == 1
    return content.replace(b"Na", b"".join(opcodes) + b"a")


def put(index):
    return b"r" + (1000 + index).to_bytes(4, "little")


def get(index):
    return b"j" + (1000 + index).to_bytes(4, "little")


def shared_tuples(levels):
    """A tuple of twice the tuple of twice the tuple ...: its hash takes 2**levels steps."""
    return b")" + put(0) + b"".join(get(level) + b"\x86" + put(level + 1) for level in range(levels))


def integer(value):
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + len(content).to_bytes(4, "little") + content


UUID_CLASS = b"cuuid\nUUID\n"
COLLIDING = [number * (2**61 - 1) for number in range(20_000)]  # all have the hash 0
HOSTILE = {
    "a dict key that hashes forever": (b"}" + shared_tuples(60) + b"Ns", "dict key that is neither"),
    "a tuple that unfolds forever": (shared_tuples(60), "too deeply or too often"),
    "shared tuples as arguments": (b"cdatetime\ntimedelta\n" + shared_tuples(60) + b"R", "too deeply or too often"),
    "a call inside its own state": (UUID_CLASS + b")\x81" + put(0) + get(0) + b"\x85b", "too deeply or too often"),
    "a state for a class": (UUID_CLASS + b"}b", "state for something"),
    "a second state": (UUID_CLASS + b")\x81K\x01bK\x01b", "state for something"),
    "a call of a result": (UUID_CLASS + b")\x81)R", "call of something unknown"),
    "a class as a value": (UUID_CLASS, "unknown kind"),
    "a type as a value": (b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R", "unknown kind"),
    "an integer of 40,000 bits": (integer(2**40_000), "too large"),
    "integers that collide": (
        b"}(" + b"".join(integer(key) + b"N" for key in COLLIDING) + b"u",
        "numbers as dict keys",
    ),
    "an import named by tuples": (shared_tuples(60) + put(70) + b"N\x93", "import without a name"),
    "a memo that grows": (b"]" + b"\x94" * 200_000, "opcodes"),
    "a memo index of two billion": (b"Nr\xff\xff\xff\x7fj\x00\x00\x00\x7f", "damaged"),
}


@pytest.mark.parametrize(("entry", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_entries_are_refused_at_once(entry, message):
    content = array_with(entry)
    started = time.process_time()
    tracemalloc.start()
    with pytest.raises(RefusedObjectsError, match=message):
        read_objects(content, num_entries=1)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64e6
    assert time.process_time() - started < 10


OTHER_OPCODES = {
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(cuuid\nUUID\no",
    "NEWOBJ_EX": UUID_CLASS + b")}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pname\n",
    "BINPERSID": b"NQ",
    "NEXT_BUFFER": b"\x97",
    "BYTEARRAY8": b"\x96" + bytes(8),
    "EMPTY_SET": b"\x8f",
    "DUP": b"N2",
    "POP": b"NN0",
    "DICT": b"(d",
    "LONG": b"L1L\n",
    "BINSTRING": b"T\x01\x00\x00\x00a",
}


@pytest.mark.parametrize(("name", "opcodes"), OTHER_OPCODES.items(), ids=OTHER_OPCODES)
def test_every_other_opcode_is_refused_by_name(name, opcodes):
    with pytest.raises(RefusedObjectsError, match=f"pickle opcode {name},"):
        read_objects(array_with(opcodes), num_entries=1)


def test_a_large_text_that_is_encoded_once_and_mentioned_often_takes_little_memory():
    text = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6
    encoded = b"c_codecs\nencode\n" + text + b"X\x06\x00\x00\x00latin1\x86R" + put(0)
    content = array_with(b"](" + encoded + get(0) * 2_000 + b"e")
    tracemalloc.start()
    (entry,) = read_objects(content, num_entries=1)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(entry) == 2_001
    assert peak_bytes < 32e6


def test_many_real_entries_are_read_in_seconds():
    values = [uuid.UUID(int=number) for number in range(10_000)]
    started = time.process_time()
    assert read_objects(stored(values), num_entries=10_000) == values
    assert time.process_time() - started < 6
