"""Measure how the vectors of a concept table are best stored: size, and seconds to write and read them once.

Each alternative is written and read in the row groups of the real table, several times; the fastest counts. The made
vectors use all bits of their numbers; a file with real ones can be given.

    python benchmarks/parquet_encodings.py --json
    python benchmarks/parquet_encodings.py --data concepts.parquet
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lvm_pipeline.concepts.schema import concepts_schema
from lvm_pipeline.concepts.store import ROW_GROUP_CONCEPTS, VECTOR_LEAF, WRITER_OPTIONS

SPLIT = {"use_dictionary": False, "column_encoding": {VECTOR_LEAF: "BYTE_STREAM_SPLIT"}}
PLAIN = {"use_dictionary": False}
OURS = "byte-split, zstd 1"
ALTERNATIVES: dict[str, dict[str, Any]] = {
    OURS: {**SPLIT, "compression": "zstd", "compression_level": 1},
    "byte-split, zstd 3": {**SPLIT, "compression": "zstd", "compression_level": 3},
    "byte-split, zstd -1": {**SPLIT, "compression": "zstd", "compression_level": -1},
    "byte-split, lz4": {**SPLIT, "compression": "lz4"},
    "byte-split, snappy": {**SPLIT, "compression": "snappy"},
    "byte-split, uncompressed": {**SPLIT, "compression": "none"},
    "plain, zstd 1": {**PLAIN, "compression": "zstd", "compression_level": 1},
    "plain, uncompressed": {**PLAIN, "compression": "none"},
    "pyarrow's default (dictionary, snappy)": {},
}


def main() -> None:
    """Measure every alternative and compare ours with each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=18_814, help="Vectors to make where no file is given.")
    parser.add_argument("--data", type=Path, help="Parquet with a column vector.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="Print a list of rows as JSON.")
    arguments = parser.parse_args()
    chosen = {key: WRITER_OPTIONS[key] for key in ("compression", "compression_level", "column_encoding")}
    assert chosen == {key: ALTERNATIVES[OURS][key] for key in chosen}, "the table is no longer written as measured here"
    vectors = made_vectors(arguments.rows) if arguments.data is None else given_vectors(arguments.data)
    measured = measure(vectors, repeats=arguments.repeats)
    rows = [row for name in ALTERNATIVES if name != OURS for row in compared(name, measured)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{len(vectors)} vectors, {vectors.nbytes / 1e6:.1f} MB in memory")
    for name, (megabytes, write_seconds, read_seconds) in measured.items():
        print(f"{name:40} {megabytes:7.1f} MB   write {write_seconds:6.3f} s   read {read_seconds:6.3f} s")


def made_vectors(num_rows: int) -> NDArray[np.float32]:
    """Make random unit vectors."""
    vectors = np.random.default_rng(0).standard_normal((num_rows, 768), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def given_vectors(path: Path) -> NDArray[np.float32]:
    """Take the vectors of a file."""
    column = pq.read_table(path, columns=["vector"])["vector"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)


def measure(vectors: NDArray[np.float32], *, repeats: int) -> dict[str, tuple[float, float, float]]:
    """Return MB on disk, seconds to write and seconds to read for each alternative."""
    field = concepts_schema(vectors.shape[1]).field("vector")
    table = pa.table(
        [pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=field.type)], pa.schema([field])
    )
    best: dict[str, tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.parquet"
        for _ in range(repeats):
            for name, options in ALTERNATIVES.items():
                seconds = (write_seconds(table, path, options), read_seconds(path))
                _, *known = best.get(name, (0.0, *seconds))
                write, read = (min(pair) for pair in zip(known, seconds, strict=True))
                best[name] = (path.stat().st_size / 1e6, write, read)
    return best


def write_seconds(table: pa.Table, path: Path, options: dict[str, Any]) -> float:
    """Time writing the table in row groups."""
    started = time.perf_counter()
    with pq.ParquetWriter(path, table.schema, write_statistics=False, **options) as writer:
        for start in range(0, table.num_rows, ROW_GROUP_CONCEPTS):
            writer.write_table(table.slice(start, ROW_GROUP_CONCEPTS))
    return time.perf_counter() - started


def read_seconds(path: Path) -> float:
    """Time reading the table row group by row group, as the invariants do."""
    started = time.perf_counter()
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group)
    return time.perf_counter() - started


def compared(name: str, measured: dict[str, tuple[float, float, float]]) -> list[dict[str, Any]]:
    """Compare ours with one alternative: it may not be larger, nor take more than twice the time."""
    ours, peer = measured[OURS], measured[name]
    size = {"name": f"MB: {name}", "ours": ours[0], "peer": peer[0], "ratio": peer[0] / ours[0], "goal": 1.0}
    times = (ours[1] + ours[2], peer[1] + peer[2])
    seconds = {
        "name": f"seconds: {name}",
        "ours": times[0],
        "peer": times[1],
        "ratio": times[1] / times[0],
        "goal": 0.5,
    }
    return [{**row, "met": row["ratio"] >= row["goal"]} for row in (size, seconds)]


if __name__ == "__main__":
    main()
