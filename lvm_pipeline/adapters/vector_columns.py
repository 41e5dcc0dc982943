"""Convert the vectors of databases to float32 lists: pgvector's binary form, arrays of numbers, JSON text.

Shapes: n = rows of a batch, D = vector width.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lvm_pipeline.concepts.reader import TMD_DIM
from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.values import parse_json, vector_of

HEADER_BYTES = 4  # pgvector sends width and an unused word, two bytes each, before the numbers
PGVECTOR_NUMBERS = {"vector": np.dtype(">f4"), "halfvec": np.dtype(">f2")}
ARRAY_TYPES = ("_float4", "_float8")
CAST_ARRAY_TYPES = ("_numeric", "_int2", "_int4", "_int8")
JSON_TYPES = ("json", "jsonb", "text", "varchar", "bpchar")
READABLE_TYPES = (*PGVECTOR_NUMBERS, *ARRAY_TYPES, *CAST_ARRAY_TYPES, *JSON_TYPES)


def parse_vectors(
    column: pa.Array, *, type_name: str, cpe_ids: Sequence[str] | pa.Array, name: str
) -> pa.LargeListArray:
    """Convert a column of one of `READABLE_TYPES` to float32 lists; missing vectors are null, missing numbers NaN.

    `cpe_ids` and `name` (table and column) are for the error.

    Raises:
        LvmError: If a JSON text is not a list of numbers; names the concept.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if type_name in PGVECTOR_NUMBERS:
        return _from_pgvector(column, PGVECTOR_NUMBERS[type_name])
    if type_name in JSON_TYPES:
        return _from_json(column, cpe_ids=cpe_ids, name=name)
    return _from_list(column)


def parse_tmd(lists: pa.LargeListArray, *, name: str) -> pa.ListArray:
    """Check that every TMD vector has 16 numbers or is null. Raises LvmError if one has another width."""
    widths = lists.value_lengths().drop_null().to_numpy()
    if len(widths) and not (widths == TMD_DIM).all():
        other = widths[widths != TMD_DIM][0]
        raise LvmError(f"{name} holds a vector of width {other}, expected {TMD_DIM}; correct the table.")
    return lists.cast(pa.list_(pa.float32()))


def _from_pgvector(column: pa.BinaryArray, number: np.dtype) -> pa.LargeListArray:
    _, offset_bytes, data = column.buffers()
    offsets = np.frombuffer(offset_bytes, np.int32)[column.offset : column.offset + len(column) + 1]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    lengths = np.diff(offsets)
    widths = np.maximum(lengths - HEADER_BYTES, 0) // number.itemsize
    if len(lengths) and (lengths == lengths[0]).all() and lengths[0] > HEADER_BYTES:
        block = raw[offsets[0] : offsets[-1]].reshape(len(lengths), -1)[:, HEADER_BYTES:]
        values = block.view(number).astype(np.float32).ravel()
    else:
        pieces = [raw[end - width * number.itemsize : end] for end, width in zip(offsets[1:], widths, strict=True)]
        joined = np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
        values = joined.view(number).astype(np.float32)
    return _lists(values, widths, missing=column.is_null())


def _from_list(column: pa.ListArray) -> pa.LargeListArray:
    values = column.flatten().cast(pa.float32(), safe=False)
    widths = column.value_lengths().fill_null(0).to_numpy()
    return _lists(values.fill_null(float("nan")).to_numpy(), widths, missing=column.is_null())


def _from_json(column: pa.StringArray, *, cpe_ids: Sequence[str] | pa.Array, name: str) -> pa.LargeListArray:
    rows: list[NDArray[np.float32]] = []
    missing: list[bool] = []
    for text, cpe_id in zip(column.to_pylist(), cpe_ids, strict=True):
        try:
            value = None if text is None else parse_json(text)
            missing.append(value is None)
            rows.append(np.empty(0, np.float32) if value is None else vector_of(value, may_miss=True))
        except ValueError as error:
            problem = f"is {error}" if str(error).startswith(("not ", "JSON ")) else error
            raise LvmError(f"{name} of concept {cpe_id} {problem}; correct or delete that row.") from None
    widths = np.array([len(row) for row in rows], np.int64)
    return _lists(
        np.concatenate(rows) if rows else np.empty(0, np.float32), widths, missing=pa.array(missing, pa.bool_())
    )


def _lists(values: NDArray[np.float32], widths: NDArray, *, missing: pa.BooleanArray) -> pa.LargeListArray:
    offsets = np.zeros(len(widths) + 1, np.int64)
    np.cumsum(widths, out=offsets[1:])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets), pa.array(values), mask=missing if missing.true_count else None
    )
