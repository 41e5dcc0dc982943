"""Read the object arrays of old NPZ files without executing anything in them.

NumPy stores an array of Python objects as a pickle: a little program that may import and call whatever
it names. Here the program is not run by Python's own machine, which would do so, but by the small one
below. It knows the few instructions that build values, and eleven names; each name stands for a handler
of this module that checks its arguments and returns a plain value. No import, call or allocation that
the file asks for takes place, sizes are checked against the bytes at hand, and anything else is refused.
"""

import datetime
import io
import math
import pickletools  # a disassembler: it never executes what it reads
import re
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_OBJECT_BYTES = 512 * 2**20
VALUES_PER_ENTRY = 64  # a UUID or a time takes about a dozen
SPARE_VALUES = 100_000
MAX_DEPTH = 20

_PLAIN_DTYPE = re.compile(r"[<>=|]?(b1?|[iuf][1248]|[US]\d{1,6}|O8?)")


class RefusedObjectsError(Exception):
    """The pickle asks for something else than plain values, or is damaged; the text says what."""


def read_objects(stored: bytes, *, num_entries: int) -> list[Any]:
    """Return the entries of a stored object array, flat, as plain Python values.

    Args:
        stored: The pickle, as it follows the header in the `.npy` member.
        num_entries: How many entries the array must have.

    Returns:
        str, bytes, int, float, bool, None, uuid.UUID, datetime, and arrays, lists, tuples and dicts of these.

    Raises:
        RefusedObjectsError: If there is anything else in it, or another number of entries.
    """
    try:
        array = _Machine(max_values=VALUES_PER_ENTRY * num_entries + SPARE_VALUES).run(stored)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AssertionError, MemoryError) as error:
        raise RefusedObjectsError(f"is damaged ({type(error).__name__}: {error})") from None
    if not isinstance(array, _Array) or not isinstance(array.entries, list):
        raise RefusedObjectsError("is not an array of objects")
    if len(array.entries) != num_entries:
        raise RefusedObjectsError(f"has {len(array.entries)} entries where {num_entries} are expected")
    return _Plain(max_values=VALUES_PER_ENTRY * num_entries + SPARE_VALUES).values(array.entries)


# --- values that are built in two steps -----------------------------------------------------------


@dataclass
class _Array:
    """An array before and after its content; a list of entries (objects) or a NumPy array (numbers, text)."""

    entries: "list[Any] | NDArray[Any] | None" = None

    def build(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, content = state
        _require(isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape), "an array of no shape")
        _require(isinstance(dtype, _Dtype), "an array of no type")
        if dtype.dtype.kind == "O":
            _require(type(content) is list and len(content) == math.prod(shape), f"an array of claimed shape {shape}")
            self.entries = content
            return
        num_bytes = math.prod(shape) * dtype.dtype.itemsize
        _require(type(content) is bytes and len(content) == num_bytes, f"an array of claimed shape {shape}")
        order = "F" if is_fortran else "C"
        self.entries = _from_bytes(content, dtype.dtype).reshape(shape, order=order)


@dataclass
class _Dtype:
    """The type of an array's entries; its byte order comes in the second step."""

    dtype: np.dtype

    def build(self, state: Any) -> None:
        _version, byte_order, subarray, names, fields = state[:5]
        _require(subarray is None and names is None and fields is None, "a structured type")
        _require(byte_order in ("<", ">", "|", "="), "an unknown byte order")
        self.dtype = self.dtype if byte_order == "|" else self.dtype.newbyteorder(byte_order)


@dataclass
class _Uuid:
    """A UUID, which is made empty and then given its number."""

    value: uuid.UUID | None = None

    def build(self, state: Any) -> None:
        _require(type(state) is dict and set(state) <= {"int", "is_safe"}, "a UUID of unknown state")
        number = state["int"]
        _require(type(number) is int and 0 <= number < 2**128, "a UUID out of range")
        self.value = uuid.UUID(int=number)  # pyright: ignore[reportArgumentType]


# --- names a pickle may use, each with what is done instead -----------------------------------------


@dataclass(frozen=True)
class _Name:
    """A global that is known by name; `make` is called instead of it, None where it is only mentioned."""

    name: str
    make: Callable[..., Any] | None = None


def _make_array(kind: Any, shape: Any, typecode: Any) -> _Array:
    _require(isinstance(kind, _Name) and kind.name == "numpy.ndarray", "an unknown kind of array")
    return _Array()


def _make_dtype(code: Any, _align: Any = False, _copy: Any = True) -> _Dtype:
    _require(type(code) is str and _PLAIN_DTYPE.fullmatch(code) is not None, f"entries of type {code!r}")
    return _Dtype(np.dtype(code))


def _make_scalar(dtype: Any, content: Any) -> Any:
    _require(isinstance(dtype, _Dtype) and dtype.dtype.kind != "O", "a number of no type")
    _require(type(content) is bytes and len(content) == dtype.dtype.itemsize, "a number of the wrong size")
    return _from_bytes(content, dtype.dtype)[0].item()


def _from_bytes(content: bytes, dtype: np.dtype) -> NDArray[Any]:
    array = np.frombuffer(content, dtype=dtype)
    if dtype.kind == "U":
        letters = np.frombuffer(content, dtype=np.dtype("u4").newbyteorder(dtype.byteorder))
        _require(letters.max(initial=0) <= sys.maxunicode, "text that is none")
    return array


def _make_uuid() -> _Uuid:
    return _Uuid()


def _make_uuid_safety(value: Any) -> None:
    _require(value is None or type(value) is int, "an unknown UUID safety")


def _make_datetime(packed: Any, timezone: Any = None) -> datetime.datetime:
    _require(type(packed) is bytes and len(packed) == 10, "a time of unknown form")
    _require(timezone is None or isinstance(timezone, datetime.timezone), "a time in an unknown zone")
    year = packed[0] << 8 | packed[1]
    microsecond = packed[7] << 16 | packed[8] << 8 | packed[9]
    fold, month = divmod(packed[2], 128)
    day, hour, minute, second = packed[3:7]
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, timezone, fold=fold)


def _make_timezone(offset: Any, name: Any = None) -> datetime.timezone:
    _require(isinstance(offset, datetime.timedelta) and (name is None or type(name) is str), "an unknown time zone")
    return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)


def _make_timedelta(days: Any = 0, seconds: Any = 0, microseconds: Any = 0) -> datetime.timedelta:
    _require(all(type(part) is int for part in (days, seconds, microseconds)), "an unknown duration")
    return datetime.timedelta(days, seconds, microseconds)


def _make_bytes(text: Any, encoding: Any) -> bytes:
    _require(type(text) is str and encoding == "latin1", "unknown bytes")
    return text.encode("latin1")


_NAMES = {
    (module, name): _Name(f"{module}.{name}", make)
    for module, name, make in (
        ("numpy.core.multiarray", "_reconstruct", _make_array),
        ("numpy._core.multiarray", "_reconstruct", _make_array),
        ("numpy.core.multiarray", "scalar", _make_scalar),
        ("numpy._core.multiarray", "scalar", _make_scalar),
        ("numpy", "ndarray", None),
        ("numpy", "dtype", _make_dtype),
        ("uuid", "UUID", None),
        ("uuid", "SafeUUID", _make_uuid_safety),
        ("datetime", "datetime", _make_datetime),
        ("datetime", "timezone", _make_timezone),
        ("datetime", "timedelta", _make_timedelta),
        ("_codecs", "encode", _make_bytes),  # how old protocols write bytes
    )
}


# --- the machine ------------------------------------------------------------------------------------

_MARK = object()
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Runs the instructions that build values; `max_values` bounds how many it may make."""

    def __init__(self, *, max_values: int):
        self._values_left = max_values
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._push(_MARK),
            "TUPLE": lambda _: self._push(tuple(self._pop_to_mark())),
            "APPEND": lambda _: self._extend([self._stack.pop()]),
            "APPENDS": lambda _: self._extend(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": lambda index: self._push(self._memo[index]),
            "LONG_BINGET": lambda index: self._push(self._memo[index]),
            "GLOBAL": lambda names: self._push(_named(*names.split(" ", 1))),
            "STACK_GLOBAL": lambda _: self._push(_named(self._stack.pop(-2), self._stack.pop())),
            "REDUCE": lambda _: self._call(),
            "NEWOBJ": lambda _: self._new(),
            "BUILD": lambda _: self._build(),
        }

    def run(self, stored: bytes) -> Any:
        """Run the instructions to their end and return the one value they leave."""
        stream = io.BytesIO(stored)
        for instruction, argument, _ in pickletools.genops(stream):
            self._step(instruction.name, argument)
        _require(len(self._stack) == 1, "more than one value")
        _require(stream.tell() == len(stored), "more bytes than its instructions take")
        return self._stack[0]

    def _step(self, name: str, argument: Any) -> None:
        if name in _NUMBERS or name in _TEXTS:
            self._push(argument)
        elif name in self._handlers:
            self._handlers[name](argument)
        elif name in _TUPLES:
            items = self._stack[-_TUPLES[name] :]
            _require(len(items) == _TUPLES[name], "too few values")
            del self._stack[-len(items) :]
            self._push(tuple(items))
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in _CONTAINERS:
            self._push(_CONTAINERS[name]())
        elif name not in {"PROTO", "FRAME", "STOP"}:
            raise RefusedObjectsError(f"uses the pickle instruction {name}, which plain values do not need")

    def _push(self, value: Any) -> None:
        self._values_left -= 1
        if self._values_left < 0:
            raise RefusedObjectsError("makes far more values than it has entries")
        self._stack.append(value)

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            _require(at >= 0, "a missing mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _extend(self, items: list[Any]) -> None:
        _require(type(self._stack[-1]) is list, "an append to no list")
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        _require(type(self._stack[-1]) is dict and len(items) % 2 == 0, "an item of no dict")
        _require(all(type(key) in {str, int} for key in items[::2]), "a dict key that is neither text nor number")
        self._stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _call(self) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        name = called.name if isinstance(called, _Name) else type(called).__name__
        if not isinstance(called, _Name) or called.make is None or type(arguments) is not tuple:
            raise RefusedObjectsError(f"calls {name}, which is not allowed")
        self._push(called.make(*arguments))

    def _new(self) -> None:
        arguments, made = self._stack.pop(), self._stack.pop()
        _require(isinstance(made, _Name) and made.name == "uuid.UUID" and arguments == (), "an object of unknown class")
        self._push(_make_uuid())

    def _build(self) -> None:
        state = self._stack.pop()
        _require(isinstance(self._stack[-1], _Array | _Dtype | _Uuid), "a state for something that takes none")
        self._stack[-1].build(state)


def _named(module: Any, name: Any) -> _Name:
    known = _NAMES.get((module, name)) if type(module) is str and type(name) is str else None
    if known is None:
        raise RefusedObjectsError(f"would use {module}.{name} while loading, which is forbidden")
    return known


def _require(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise RefusedObjectsError(f"holds {otherwise}")


class _Plain:
    """Replaces what the machine made by plain values; bounded, since a value may be mentioned many times."""

    def __init__(self, *, max_values: int):
        self._values_left = max_values

    def values(self, entries: list[Any], depth: int = 0) -> list[Any]:
        return [self.value(entry, depth) for entry in entries]

    def value(self, value: Any, depth: int) -> Any:
        self._values_left -= 1
        if self._values_left < 0 or depth > MAX_DEPTH:
            raise RefusedObjectsError("nests its values too deeply or too often")
        if value is None or type(value) in {str, bytes, int, float, bool, datetime.datetime}:
            return value
        if isinstance(value, _Uuid) and value.value is not None:
            return value.value
        if isinstance(value, _Array) and value.entries is not None:
            return self.values(value.entries, depth + 1) if isinstance(value.entries, list) else value.entries
        if type(value) is list:
            return self.values(value, depth + 1)
        if type(value) is tuple:
            return tuple(self.values(list(value), depth + 1))
        if type(value) is dict:
            return {key: self.value(item, depth + 1) for key, item in value.items()}
        raise RefusedObjectsError(f"holds an entry of an unknown kind ({type(value).__name__.strip('_')})")
