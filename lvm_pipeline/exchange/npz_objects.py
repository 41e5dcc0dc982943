"""Read NumPy object arrays, which are stored as pickles, without executing anything.

A `pickle.Unpickler` with an allow-list in `find_class` would keep code from running, but not bound memory or time:
nine bytes (a memo index of 2**28) make it allocate 4 GiB, a megabyte of empty lists takes 64 MB, and 250 bytes (a dict
key of nested tuples that share their parts) hash practically forever. So this module walks the opcodes itself, as
disassembled by `pickletools`. A call in the file is only recorded; afterwards the calls to eleven known names are
evaluated by functions of this module, which check their arguments. Opcodes, values and nesting are limited, and
lengths are checked against the bytes that are there before anything is allocated.
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
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_OBJECT_BYTES = 512 * 2**20
MAX_OPCODES = 20_000_000
OPCODES_PER_ENTRY = 64  # a UUID or a time takes about a dozen
SPARE_OPCODES = 100_000
MAX_DEPTH = 40
MAX_INT_BITS = 256
MAX_INT_KEYS = 10_000  # chosen integers can collide in a dict; hashes of text are random

_Function = Callable[[tuple[Any, ...], Any], Any]  # of the arguments of a call and the state set on its result
_SIMPLE_TYPES = {NoneType, str, bytes, float, bool}
_ENTRY_TYPES = {*_SIMPLE_TYPES, int, datetime.datetime, uuid.UUID, np.ndarray, list, tuple, dict}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_DTYPE_CODE = re.compile(r"[<>=|]?(b1?|[iuf][1248]|[US]\d{1,6}|O8?)")


class RefusedObjectsError(Exception):
    """The pickle holds more than plain values, or is damaged; the text says what."""


def read_objects(stored: bytes, *, num_entries: int) -> list[Any]:
    """Return the entries of a stored object array, flat, as plain Python values.

    That is str, bytes, int, float, bool, None, uuid.UUID, datetime, and arrays, lists, tuples and dicts of these.

    Raises:
        RefusedObjectsError: If there is anything else in it, or another number of entries.
    """
    limit = min(OPCODES_PER_ENTRY * num_entries + SPARE_OPCODES, MAX_OPCODES)
    try:
        root = _Walk(max_opcodes=limit).run(stored)
        _require(isinstance(root, _Call) and root.function is _array, "something that is not an array of objects")
        entries = _Evaluation(max_values=limit).value(root, 0)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AssertionError, MemoryError) as error:
        raise RefusedObjectsError(f"is damaged ({type(error).__name__}: {error})") from None
    _require(isinstance(entries, list), "something that is not an array of objects")
    if len(entries) != num_entries:
        raise RefusedObjectsError(f"has {len(entries)} entries where {num_entries} are expected")
    return entries


def _require(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise RefusedObjectsError(f"holds {otherwise}")


# --- first the opcodes: values, and calls that are only recorded ------------------------------------


@dataclass(frozen=True)
class _Global:
    """A name that the file would import."""

    name: str
    function: _Function


@dataclass(eq=False)
class _Call:
    """A call that the file would make, and the state it would set on the result."""

    function: _Function
    arguments: tuple[Any, ...]
    state: Any = None


class _Walk:
    """Runs the opcodes that build values."""

    def __init__(self, *, max_opcodes: int):
        self.max_opcodes = max_opcodes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.int_keys_left = MAX_INT_KEYS

    def run(self, stored: bytes) -> Any:
        stream = io.BytesIO(stored)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > self.max_opcodes:
                raise RefusedObjectsError("takes far more pickle opcodes than its entries need")
            if opcode.name not in _OPCODES:
                raise RefusedObjectsError(f"uses the pickle opcode {opcode.name}, which plain values do not need")
            _OPCODES[opcode.name](self, argument)
        _require(len(self.stack) == 1, "more than one value")
        _require(stream.tell() == len(stored), "more bytes than its pickle takes")
        return self.stack[0]

    def pop(self, count: int) -> list[Any]:
        _require(len(self.stack) >= count, "an opcode without its values")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        _require(type(self.stack[-1]) is list, "an append to something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        _require(type(self.stack[-1]) is dict and len(keys) == len(values), "an item of something that is not a dict")
        _require(all(type(key) in {str, int} for key in keys), "a dict key that is neither text nor a number")
        self.int_keys_left -= sum(type(key) is int for key in keys)
        _require(self.int_keys_left >= 0, "too many numbers as dict keys")
        self.stack[-1].update(zip(keys, values, strict=True))

    def find(self, module: Any, name: Any) -> None:
        _require(type(module) is str and type(name) is str, "an import without a name")
        full_name = f"{module}.{name}"
        if full_name not in _GLOBALS:
            raise RefusedObjectsError(f"would import {full_name[:80]}, which is forbidden")
        self.stack.append(_Global(full_name, _GLOBALS[full_name]))

    def call(self) -> None:
        function, arguments = self.pop(2)
        _require(isinstance(function, _Global) and type(arguments) is tuple, "a call of something unknown")
        self.stack.append(_Call(function.function, arguments))

    def build(self) -> None:
        called, state = self.pop(2)
        _require(isinstance(called, _Call) and called.state is None, "a state for something that takes none")
        called.state = state
        self.stack.append(called)


_OPCODES: dict[str, Callable[[_Walk, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    **dict.fromkeys(_LITERALS, lambda walk, argument: walk.stack.append(argument)),
    "NONE": lambda walk, _: walk.stack.append(None),
    "NEWTRUE": lambda walk, _: walk.stack.append(True),
    "NEWFALSE": lambda walk, _: walk.stack.append(False),
    "EMPTY_LIST": lambda walk, _: walk.stack.append([]),
    "EMPTY_DICT": lambda walk, _: walk.stack.append({}),
    "EMPTY_TUPLE": lambda walk, _: walk.stack.append(()),
    "MARK": lambda walk, _: walk.marks.append(len(walk.stack)),
    "TUPLE": lambda walk, _: walk.stack.append(tuple(walk.pop_to_mark())),
    "TUPLE1": lambda walk, _: walk.stack.append(tuple(walk.pop(1))),
    "TUPLE2": lambda walk, _: walk.stack.append(tuple(walk.pop(2))),
    "TUPLE3": lambda walk, _: walk.stack.append(tuple(walk.pop(3))),
    "APPEND": lambda walk, _: walk.extend(walk.pop(1)),
    "APPENDS": lambda walk, _: walk.extend(walk.pop_to_mark()),
    "SETITEM": lambda walk, _: walk.set_items(walk.pop(2)),
    "SETITEMS": lambda walk, _: walk.set_items(walk.pop_to_mark()),
    "MEMOIZE": lambda walk, _: walk.remember(len(walk.memo)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Walk.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda walk, index: walk.stack.append(walk.memo[index])),
    "GLOBAL": lambda walk, names: walk.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda walk, _: walk.find(*walk.pop(2)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda walk, _: walk.call()),
    "BUILD": lambda walk, _: walk.build(),
}


# --- then the calls ---------------------------------------------------------------------------------


class _Evaluation:
    """Replaces recorded calls by their values; bounded, since a value may be referenced many times."""

    def __init__(self, *, max_values: int):
        self._values_left = max_values
        self._results: dict[int, Any] = {}

    def value(self, value: Any, depth: int, *, is_entry: bool = True) -> Any:
        self._values_left -= 1
        if self._values_left < 0 or depth > MAX_DEPTH:
            raise RefusedObjectsError("nests its values too deeply or too often")
        kind = type(value)
        if kind in _SIMPLE_TYPES:
            return value
        if kind is _Call:
            value = self._call(value, depth)
        elif kind is list:
            value = [self.value(item, depth + 1) for item in value]
        elif kind is tuple:
            value = tuple([self.value(item, depth + 1, is_entry=is_entry) for item in value])
        elif kind is dict:
            value = {key: self.value(item, depth + 1) for key, item in value.items()}
        elif kind is int:
            _require(value.bit_length() <= MAX_INT_BITS, "a number that is too large")
        _require(not is_entry or type(value) in _ENTRY_TYPES, "an entry of an unknown kind")
        return value

    def _call(self, call: _Call, depth: int) -> Any:
        if id(call) in self._results:
            return self._results[id(call)]
        arguments = self.value(call.arguments, depth + 1, is_entry=False)
        result = call.function(arguments, self.value(call.state, depth + 1, is_entry=False))
        if not isinstance(result, list):  # lists count again each time they are referenced
            self._results[id(call)] = result
        return result


def _array(arguments: tuple[Any, ...], state: Any) -> "list[Any] | NDArray[Any]":
    kind, _shape, _typecode = arguments
    _require(isinstance(kind, _Global) and kind.function is _ndarray, "an unknown kind of array")
    _version, shape, dtype, is_fortran, content = state
    _require(type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape), "an array without a shape")
    if type(content) is not list:
        return _from_bytes(content, dtype).reshape(shape, order="F" if is_fortran else "C")
    _require(dtype == np.dtype("O") and len(content) == math.prod(shape), f"an array of claimed shape {shape}")
    return content


def _ndarray(_arguments: tuple[Any, ...], _state: Any) -> None:
    raise RefusedObjectsError("calls numpy.ndarray, which is not allowed")


def _dtype(arguments: tuple[Any, ...], state: Any) -> np.dtype[Any]:
    code = arguments[0]
    _require(type(code) is str and _DTYPE_CODE.fullmatch(code) is not None, f"entries of type {code!r}"[:80])
    _, byte_order, *structure = state[:5] if state is not None else (3, "|", None, None, None)
    _require(structure == [None, None, None] and byte_order in ("<", ">", "|", "="), "a structured type")
    return np.dtype(code).newbyteorder(byte_order)


def _scalar(arguments: tuple[Any, ...], _state: Any) -> Any:
    dtype, content = arguments
    return _from_bytes(content, dtype).reshape(()).item()


def _from_bytes(content: Any, dtype: Any) -> NDArray[Any]:
    _require(type(content) is bytes and isinstance(dtype, np.dtype), "numbers without a type")
    if dtype.kind == "U":
        characters = np.frombuffer(content, dtype=np.dtype("u4").newbyteorder(dtype.byteorder))
        _require(characters.max(initial=0) <= sys.maxunicode, "text with invalid characters")
    return np.frombuffer(content, dtype=dtype)


def _uuid(arguments: tuple[Any, ...], state: Any) -> uuid.UUID:
    _require(arguments == () and type(state) is dict and set(state) <= {"int", "is_safe"}, "an unknown UUID")
    number: Any = state["int"]
    _require(type(number) is int, "a UUID that is not a number")
    return uuid.UUID(int=number)


def _uuid_safety(arguments: tuple[Any, ...], _state: Any) -> None:
    (value,) = arguments
    _require(value is None or type(value) is int, "an unknown UUID safety")


def _datetime(arguments: tuple[Any, ...], _state: Any) -> datetime.datetime:
    packed, timezone = arguments if len(arguments) == 2 else (*arguments, None)
    _require(type(packed) is bytes and len(packed) == 10, "a time of unknown form")
    fold, month = divmod(packed[2], 128)
    year, (day, hour, minute, second), microsecond = int.from_bytes(packed[:2]), packed[3:7], int.from_bytes(packed[7:])
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, timezone, fold=fold)


def _bytes(arguments: tuple[Any, ...], _state: Any) -> bytes:
    """Undo how protocol 2 writes bytes."""
    text, encoding = arguments
    _require(type(text) is str and encoding == "latin1", "unknown bytes")
    return text.encode("latin1")


_GLOBALS: dict[str, _Function] = {
    "numpy.core.multiarray._reconstruct": _array,  # NumPy 1
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _dtype,
    "uuid.UUID": _uuid,
    "uuid.SafeUUID": _uuid_safety,
    "datetime.datetime": _datetime,
    "datetime.timezone": lambda arguments, _state: datetime.timezone(*arguments),
    "datetime.timedelta": lambda arguments, _state: datetime.timedelta(*arguments),
    "_codecs.encode": _bytes,
}
