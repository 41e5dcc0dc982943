"""Files as other programs write them, and damaged ones, each under a name that says what is odd about it."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM = 8
LENGTHS = (7, 8, 9)
NUM_ROWS = sum(LENGTHS)
INVALID = b"caf\xe9"


def good_columns():
    """Columns of a good Parquet file of concepts."""
    vectors = np.random.default_rng(0).standard_normal((NUM_ROWS, DIM)).astype(np.float32)
    return {
        "article_id": pa.array([f"a{article}" for article, n in enumerate(LENGTHS) for _ in range(n)]),
        "position": pa.array([position for n in LENGTHS for position in range(n)]),
        "concept_text": pa.array([f"text {row}" for row in range(NUM_ROWS)]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
    }


def good_table(metadata=None, **changes):
    columns = {name: column for name, column in {**good_columns(), **changes}.items() if column is not None}
    return pa.table(columns).replace_schema_metadata(metadata)


def invalid_text():
    raw = [INVALID if row == 3 else b"text" for row in range(NUM_ROWS)]
    return pa.array(raw, pa.binary()).view(pa.string())


def odd_columns():
    """Tables whose columns are of unexpected types, or hold unexpected values."""
    vectors = good_columns()["vector"]
    lists = [None if row == 4 else value for row, value in enumerate(vectors.to_pylist())]
    tensor = pa.fixed_shape_tensor(pa.float32(), (2, 4))
    return {
        "null in a fixed-size list": {"vector": pa.array(lists, pa.list_(pa.float32(), DIM))},
        "null component": {"vector": pa.array([[None] * DIM] * NUM_ROWS, pa.list_(pa.float32()))},
        "vectors of text": {"vector": pa.array(["[1, 2]"] * NUM_ROWS)},
        "vectors of structs": {"vector": pa.array([{"x": 1.0}] * NUM_ROWS)},
        "nested lists": {"vector": pa.array([[[1.0, 2.0], [3.0, 4.0]]] * NUM_ROWS)},
        "tensors of two axes": {"vector": pa.ExtensionArray.from_storage(tensor, vectors)},
        "vectors of integers": {"vector": pa.array([[1, 2]] * NUM_ROWS)},
        "vectors of booleans": {"vector": pa.array([[True, False]] * NUM_ROWS)},
        "vectors of several widths": {"vector": pa.array([[0.5] * (1 + row % 3) for row in range(NUM_ROWS)])},
        "empty vectors": {"vector": pa.array([[]] * NUM_ROWS, pa.list_(pa.float32()))},
        "zero vectors": {"vector": pa.array([[0.0] * DIM] * NUM_ROWS)},
        "huge vectors": {"vector": pa.array([[1e300] * DIM] * NUM_ROWS)},
        "wide vectors": {"vector": pa.array([np.ones(40_000, np.float32)] * NUM_ROWS, pa.list_(pa.float32()))},
        "text that is not UTF-8": {"concept_text": invalid_text()},
        "articles that are not UTF-8": {"article_id": invalid_text()},
        "articles that are booleans": {"article_id": pa.array([True] * NUM_ROWS)},
        "articles that are structs": {"article_id": pa.array([{"id": 1}] * NUM_ROWS)},
        "articles that are times": {"article_id": pa.array([2**62] * NUM_ROWS, pa.timestamp("ns"))},
        "articles that are UUIDs": {"article_id": pa.array([bytes(16)] * NUM_ROWS, pa.uuid())},
        "categorical articles": {"article_id": good_columns()["article_id"].dictionary_encode()},
        "text positions": {"position": pa.array([str(row) for row in range(NUM_ROWS)])},
        "positions that are booleans": {"position": pa.array([True] * NUM_ROWS)},
        "positions beyond int32": {"position": pa.array([2**62 + row for row in range(NUM_ROWS)])},
        "fractional positions": {"position": pa.array([row + 0.5 for row in range(NUM_ROWS)])},
        "cpe_ids that are numbers": {"cpe_id": pa.array(range(NUM_ROWS))},
        "titles that are not UTF-8": {"article_title": invalid_text()},
        "columns of nulls": {name: pa.nulls(NUM_ROWS) for name in ("article_id", "position", "concept_text")},
        "null vectors": {"vector": pa.nulls(NUM_ROWS, pa.list_(pa.float32()))},
    }


def odd_metadata():
    return {
        "space that is not UTF-8": {b"space_id": INVALID},
        "own metadata that are no JSON": {b"lvm": b"no JSON"},
        "own metadata that are a list": {b"lvm": b"[1, 2]"},
        "own metadata of another version": {b"lvm": b'{"schema_version": 99}'},
        "own metadata with odd fields": {b"lvm": b'{"schema_version": 1, "space_id": 7}'},
        "own metadata that claim another width": {
            b"lvm": json.dumps(
                dict.fromkeys(("fingerprint", "space_id", "source", "dataset_source", "order_key"), "x")
                | dict.fromkeys(("num_concepts", "num_articles", "num_source_rows", "vector_dim"), 3)
                | {"duplicates_policy": "fail", "schema_version": 1}
            ).encode()
        },
    }


def odd_bytes(parquet, lines):
    """Contents that are no Parquet and no JSON lines, or packed, or damaged."""
    middle = len(parquet) // 2
    return {
        "empty": b"",
        "cut Parquet": parquet[:middle],
        "only the magic of Parquet": b"PAR1",
        "Parquet without a footer": b"PAR1" + bytes(40) + b"PAR1",
        "Parquet with a footer too long": parquet[:-8] + b"\xff\xff\xff\x7fPAR1",
        "Parquet with bytes changed": parquet[:200] + b"\xff" * 60 + parquet[260:],
        "Parquet with a changed footer": parquet[:-200] + b"\xff" * 60 + parquet[-140:],
        "cut gzip": gzip.compress(lines)[:-9],
        "gzip of gzip": gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(lines))))),
        "cut xz": lzma.compress(lines)[:-9],
        "cut bzip2": bz2.compress(lines)[:-9],
        "cut zstd": b"\x28\xb5\x2f\xfd" + bytes(9),
        "Arrow magic": b"ARROW1\0\0" + bytes(30),
        "Arrow stream magic": b"\xff\xff\xff\xff\x10\0\0\0" + bytes(30),
        "zip": b"PK\x05\x06" + bytes(18),
        "UTF-16 cut in a character": lines.decode().encode("utf-16")[:-1] + b"\xd8",
        "NUL bytes": bytes(200),
        "binary": bytes(range(256)),
        "an image": b"\x89PNG\r\n\x1a\n" + bytes(30),
        "SQLite": b"SQLite format 3\0" + bytes(90),
        "pickle": b"\x80\x04\x95" + bytes(9),
        "a CSV": b"title,text\nOne,two\n",
    }


def odd_lines():
    digits = b"9" * 400
    many = b"9" * 5000
    text = b'{"title": "t", "concepts": '
    return {
        "a title that is a number": b'{"title": 3, "text": "a"}',
        "an article that is a dict": b'{"title": "t", "text": "a b", "article_id": {"a": 1}}',
        "an article that is a boolean": b'{"title": "t", "text": "a b", "article_id": true}',
        "concepts that are a dict": text + b'{"a": 1}}',
        "half a surrogate pair": text + b'["\\ud800"]}',
        "NUL in a text": text + b'["a\\u0000b"]}',
        "bytes that are not UTF-8": text + b'["' + INVALID + b'"]}',
        "a number of 400 digits": b'{"title": "t", "text": "a", "vector": [' + digits + b"]}",
        "a number of 5,000 digits": b'{"title": "t", "text": "a", "vector": [' + many + b"]}",
        "a bare list with a number of 400 digits": b"[" + digits + b", 1]",
        "a bare list with a number of 5,000 digits": b"[" + many + b", 1]",
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"a":' * 100_000,
        "a bare number": b"3",
        "null": b"null",
        "vector of booleans": b'{"vector": [' + b", ".join([b"true"] * DIM) + b"]}",
        "NaN": b'{"vector": [' + b", ".join([b"NaN"] * DIM) + b"]}",
        "odd tmd_dense": b'{"vector": [1, 2], "tmd_dense": {"a": 1}}',
    }


def odd_npz(folder):
    """NPZ files that are damaged or hold unexpected arrays."""
    num = 12
    vectors = np.random.default_rng(1).standard_normal((num, DIM)).astype(np.float32)
    concepts = {
        "cpe_ids": np.array([f"c{row}" for row in range(num)]),
        "concept_texts": np.array([f"text {row}" for row in range(num)]),
        "vectors": vectors,
        "tmd_codes": np.array(["1.2.3"] * num),
        "batch_ids": np.array(["a"] * num),
        "seq_in_article": np.arange(num),
    }
    sequences = {
        "context_sequences": np.stack([vectors[row : row + 5] for row in range(num - 5)]),
        "target_vectors": vectors[5:],
    }
    odd = {
        "one article": concepts,
        "boolean batch_ids": {**concepts, "batch_ids": np.ones(num, bool)},
        "times as positions": {**concepts, "seq_in_article": np.zeros(num, "datetime64[s]")},
        "huge positions": {**concepts, "seq_in_article": np.full(num, 2**62)},
        "NaN vectors": {**concepts, "vectors": np.full((num, DIM), np.nan, np.float32)},
        "complex vectors": {**concepts, "vectors": vectors.astype(complex)},
        "empty": {},
        "no rows": {**concepts, "vectors": vectors[:0]},
        "sequences": sequences,
        "sequences of one split": {f"val_{name}": array for name, array in sequences.items()},
        "sequences of no axes": {**sequences, "context_sequences": np.float32(3)},
        "wide sequences": {
            "context_sequences": np.zeros((2, 5, 9), np.float32),
            "target_vectors": np.zeros((2, 8), np.float32),
        },
        "odd metadata": {**sequences, "metadata": np.array(["a"] * 3)},
        "dicts of odd articles": {
            **sequences,
            "metadata": np.array([{"article_index": [1]}] * (num - 5), dtype=object),
        },
        "odd context_texts": {**sequences, "context_texts": np.array([["a"]])},
    }
    for name, arrays in odd.items():
        np.savez(folder / f"{name}.npz", **arrays)


def write_odd_files(folder):
    """Write every odd file and return their paths."""
    for name, changes in odd_columns().items():
        pq.write_table(good_table(**changes), folder / f"{name}.parquet")
    for name, metadata in odd_metadata().items():
        pq.write_table(good_table(metadata), folder / f"{name}.parquet")
    columns = good_columns()
    twice = pa.Table.from_arrays([*columns.values(), columns["concept_text"]], names=[*columns, "concept_text"])
    pq.write_table(twice, folder / "two columns of one name.parquet")
    for name in columns:
        pq.write_table(good_table(**{name: None}), folder / f"no {name}.parquet")
    pq.write_table(good_table().slice(0, 0), folder / "no rows.parquet")
    parquet = (folder / "vectors of several widths.parquet").read_bytes()
    lines = b'{"title": "t", "concepts": ["one thing", "another thing"]}\n'
    for name, content in odd_bytes(parquet, lines).items():
        (folder / name).write_bytes(content)
    for name, content in odd_lines().items():
        (folder / f"{name}.jsonl").write_bytes(lines + content + b"\n")
    odd_npz(folder)
    for path in sorted(folder.iterdir()):
        if path.name in ("one article.npz", "empty.npz"):
            (folder / f"cut {path.name}").write_bytes(path.read_bytes()[:-30])
    return sorted(path for path in folder.iterdir() if path.is_file())
