"""Read the optional columns of the source table, of whatever type they are: TMD codes, times, negatives.

Each error names the column and the concept.
"""

import datetime
import json
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.values import parse_json, whole_number

CODE_TYPE, TIME_TYPE = pa.int16(), pa.timestamp("us", tz="UTC")
LARGEST_CODE = 2**15 - 1
Value = TypeVar("Value")


def parse_codes(column: pa.Array, *, cpe_ids: pa.Array, name: str) -> pa.Array:
    """Parse TMD codes that were read as text."""
    return _parsed(column, _code, CODE_TYPE, cpe_ids=cpe_ids, name=name, what="a whole number")


def parse_times(column: pa.Array, *, cpe_ids: pa.Array, name: str) -> pa.Array:
    """Parse times that are text in ISO format; without a time zone they are UTC."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    return _parsed(column, _time, TIME_TYPE, cpe_ids=cpe_ids, name=name, what="a time such as 2025-01-31 12:00:00+00")


def parse_string_lists(column: pa.Array, *, cpe_ids: pa.Array, name: str) -> pa.Array:
    """Parse JSON texts into lists of strings."""
    return _parsed(column, _strings, pa.list_(pa.string()), cpe_ids=cpe_ids, name=name, what="JSON text")


def _parsed(
    column: pa.Array, parse: Callable[[str], object], kind: pa.DataType, *, cpe_ids: pa.Array, name: str, what: str
) -> pa.Array:
    """Parse each different text once."""
    encoded = column.dictionary_encode()
    values = []
    for code, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            values.append(parse(text))
            if isinstance(values[-1], list):
                "".join(values[-1]).encode()
        except (ValueError, OverflowError):
            row = encoded.indices.index(code).as_py()
            raise LvmError(
                f"{name} of concept {cpe_ids[row]} is {text[:60]!r} and not {what}; correct it, or set it to NULL."
            ) from None
    return pa.array(values, kind).take(encoded.indices)


def _code(text: str) -> int | None:
    if not text.strip():
        return None
    code = whole_number(text)
    if not abs(code) <= LARGEST_CODE:
        raise ValueError(text)
    return code


def _time(text: str) -> datetime.datetime | None:
    if not text.strip():
        return None
    time = datetime.datetime.fromisoformat(text.strip())
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)


def _strings(text: str) -> list[str] | None:
    """A list of strings, a single string, or null; a string may itself be the JSON of a list."""
    value = parse_json(text)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError:
            return [value]
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    return [item if isinstance(item, str) else json.dumps(item) for item in values]
