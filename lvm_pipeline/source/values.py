"""Parse values from JSON lines, Parquet columns, database columns and requests.

Every function raises a ValueError whose message can follow the name of the field. Booleans are never numbers.
"""

import json
import math
import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOT_UTF8 = "not UTF-8"
LARGEST_NUMBER = 2**63 - 1


def parse_json(text: str | bytes) -> Any:
    """Parse JSON text."""
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(decoded.rstrip("\r\n"))  # so that an error at the end names a column of this line
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{NOT_UTF8} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except ValueError:  # Python refuses to convert numbers of more than 4,300 digits
        raise ValueError("JSON with a number of thousands of digits") from None


def whole_number(value: object) -> int:
    """Return a whole number that is given as a number or as text."""
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"is {value} and not a whole number")
    if isinstance(value, str | bytes):
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        value = _number_of_text(text)
    number = int(value) if isinstance(value, int | np.integer) else None
    if isinstance(value, float | np.floating) and math.isfinite(value) and value == int(value):
        number = int(value)
    if number is None:
        raise ValueError(f"is {str(value)[:60]!r} and not a whole number")
    if abs(number) > LARGEST_NUMBER:
        raise ValueError(f"is {str(number)[:20]}..., which is too large")
    return number


def _number_of_text(text: str) -> object:
    stripped = text.strip()
    sign, digits = (stripped[:1], stripped[1:]) if stripped[:1] in {"+", "-"} else ("", stripped)
    whole, _, zeros = digits.partition(".")
    if not (whole.isascii() and whole.isdigit() and set(zeros) <= {"0"} and len(whole) <= 19):
        return text
    return int(sign + whole)


def name_of(value: object) -> str:
    """Return an id that is given as text, a whole number or a UUID."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, str | int | uuid.UUID | np.integer):
        kind = "missing" if value is None else f"not a text but {type(value).__name__}"
        raise ValueError(f"is {kind}")
    return str(value)


def vector_of(value: object, *, may_miss: bool = False) -> NDArray[np.float32]:
    """Return a list of numbers as an array (D,); numbers too large for float32 become infinite.

    With `may_miss`, null becomes NaN; else it is refused.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, list):
        raise ValueError(f"is not a list of numbers but {type(value).__name__}")
    if any(isinstance(item, list) for item in value):
        raise ValueError("is a nested list")
    if not all(type(item) in (int, float) or (may_miss and item is None) for item in value):
        raise ValueError("contains a value that is not a number")
    with np.errstate(over="ignore"):
        return _as_floats(value).astype(np.float32)


def _as_floats(numbers: list[float | None]) -> NDArray[np.float64]:
    try:
        return np.array(numbers, dtype=np.float64)
    except OverflowError:  # a whole number of more than 308 digits
        return np.array([_as_float(number) for number in numbers])


def _as_float(number: float | None) -> float:
    try:
        return math.nan if number is None else float(number)
    except OverflowError:
        return math.inf if number and number > 0 else -math.inf
