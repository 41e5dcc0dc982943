"""Fingerprint of what a concept table holds beside ids, articles and vectors."""

import hashlib
from collections import defaultdict

import numpy as np
import pyarrow as pa

CONTENT_COLUMNS = ("concept_text", "domain", "task", "modifier", "tmd_dense", "soft_negatives", "hard_negatives")
NULL = -1  # length of a value that is null


class ContentFingerprint:
    """Order-sensitive hash of texts, TMD codes and negatives, the same however the rows are cut into pieces."""

    def __init__(self) -> None:
        self._columns = defaultdict(hashlib.sha256)  # one for the lengths and one for the values of each column

    def update(self, table: pa.Table) -> None:
        """Add rows of the concept table, in order."""
        for name in CONTENT_COLUMNS:
            for chunk in table[name].chunks:
                self._add(name, chunk)

    def hexdigest(self) -> str:
        digests = [name.encode() + column.digest() for name, column in sorted(self._columns.items())]
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def _add(self, name: str, values: pa.Array) -> None:
        if isinstance(values, pa.ListArray):
            self._add_numbers(f"{name} lengths", values.value_lengths().fill_null(NULL))
            self._add(f"{name} items", values.flatten())
        elif isinstance(values, pa.StringArray):
            texts = values.cast(pa.binary()).to_pylist()  # which are checked to be UTF-8 when they are read
            lengths = pa.array([NULL if text is None else len(text) for text in texts], pa.int32())
            self._add_numbers(f"{name} lengths", lengths)
            self._columns[name].update(b"".join(text or b"" for text in texts))
        else:
            self._add_numbers(f"{name} nulls", values.is_null().cast(pa.uint8()))
            self._add_numbers(name, values.fill_null(0))

    def _add_numbers(self, name: str, numbers: pa.Array) -> None:
        found = np.from_dlpack(numbers)  # `to_numpy` imports pandas
        self._columns[name].update(np.ascontiguousarray(found, found.dtype.newbyteorder("<")).data)
