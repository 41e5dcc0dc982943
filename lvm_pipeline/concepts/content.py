"""Fingerprints of the content columns of a concept table (texts, TMD codes, negatives)."""

import hashlib
from collections import defaultdict

import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.content_kinds import CONTENT

NULL = -1  # length of a value that is null


class ContentFingerprints:
    """Order-sensitive hash of each kind of `CONTENT`, the same however the rows are cut into pieces."""

    def __init__(self) -> None:
        self._columns = defaultdict(hashlib.sha256)  # one for the lengths and one for the values of each column

    def update(self, table: pa.Table) -> None:
        """Add rows of the concept table, in order."""
        for name in [name for columns in CONTENT.values() for name in columns]:
            for chunk in table[name].chunks:
                self._add(name, chunk)

    def hexdigests(self) -> dict[str, str]:
        """Return the hash of each kind."""
        return {kind: self._hexdigest(columns) for kind, columns in CONTENT.items()}

    def _hexdigest(self, columns: tuple[str, ...]) -> str:
        found = sorted((name, column) for name, column in self._columns.items() if name.split()[0] in columns)
        return hashlib.sha256(b"".join(name.encode() + column.digest() for name, column in found)).hexdigest()

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
