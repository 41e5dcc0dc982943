"""Files that are cut, damaged or made to harm are refused before anything is read from them."""

import io
import zipfile

import numpy as np
import pytest

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange import npz_file, npz_import
from lvm_pipeline.exchange.npz_import import import_concepts_npz, import_sequences_npz
from lvm_pipeline_tests.exchange.npz_files import (
    COLUMNS,
    NUM_CONCEPTS,
    original_concepts,
    write_npz,
)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_reported(exported, tmp_path, share):
    data = exported[0].read_bytes()
    exported[0].write_bytes(data[: int(share * len(data))])
    with pytest.raises(LvmError, match="damaged or not an NPZ file"):
        import_concepts_npz(exported[0], tmp_path / "back.parquet")


def test_changed_bytes_are_reported(exported, tmp_path):
    data = bytearray(exported[2].read_bytes())
    data[5000:5100] = bytes(100)
    exported[2].write_bytes(bytes(data))
    with pytest.raises(LvmError, match="damaged or not an NPZ file"):
        import_sequences_npz(exported[2], tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"text"])
def test_a_file_that_is_no_zip_is_reported(tmp_path, content):
    (tmp_path / "o.npz").write_bytes(content)
    with pytest.raises(LvmError, match="damaged or not an NPZ file"):
        import_concepts_npz(tmp_path / "o.npz", tmp_path / "back.parquet")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(LvmError, match="no NPZ file at"):
        import_sequences_npz(tmp_path / "none.npz", tmp_path / "c.parquet", tmp_path / "s.parquet")


def test_two_arrays_of_one_name_are_refused(exported, tmp_path):
    with zipfile.ZipFile(exported[0], "a") as file:
        file.writestr("vectors", b"")
    with pytest.raises(LvmError, match="two arrays of one name"):
        import_concepts_npz(exported[0], tmp_path / "back.parquet")


@pytest.mark.parametrize("metadata", ["no JSON", "[1, 2]", 7, None])
def test_unknown_metadata_are_ignored(concepts_path, tmp_path, metadata):
    arrays = original_concepts(concepts_path) | {"metadata": np.array(metadata)}
    if metadata is None:
        del arrays["metadata"]
    imported = import_concepts_npz(write_npz(tmp_path / "o.npz", arrays), tmp_path / "back.parquet")
    assert imported.space_id == "undeclared-32"


def test_ids_and_texts_may_be_bytes(concepts_path, tmp_path):
    arrays = original_concepts(concepts_path)
    arrays |= {name: np.array([str(v).encode() for v in arrays[name]]) for name in ("cpe_ids", "concept_texts")}
    import_concepts_npz(write_npz(tmp_path / "o.npz", arrays), tmp_path / "back.parquet")
    assert read_columns(tmp_path / "back.parquet", COLUMNS).equals(read_columns(concepts_path, COLUMNS))


def header(shape, descr="<f4", version=1):
    stream = io.BytesIO()
    write = np.lib.format.write_array_header_1_0 if version == 1 else np.lib.format.write_array_header_2_0
    write(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def raw_header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "member",
    [
        header((10**15, 768)),
        header((10**15, 768), version=2),
        header((10**30, 768)) + bytes(1000),
        header((NUM_CONCEPTS, 32), descr="<U1000000000"),
        header((NUM_CONCEPTS, 32)) + bytes(NUM_CONCEPTS * 32 * 4 - 1),
        header((NUM_CONCEPTS, 32)) + bytes(NUM_CONCEPTS * 32 * 4 + 1),
        header((-1, 32)),
        raw_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"(" * 5000 + b"}"),
        raw_header(b"__import__('os').system('true')"),
        raw_header(b"{'descr': '|O', 'fortran_order': False}"),
        b"\x93NUMPY\x09\x00" + bytes(50),
        b"",
    ],
    ids=range(12),
)
def test_headers_that_lie_are_refused_before_anything_is_allocated(concepts_path, tmp_path, member):
    arrays = original_concepts(concepts_path)
    del arrays["vectors"]
    path = write_npz(tmp_path / "o.npz", arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("vectors.npy", member)
    with pytest.raises(LvmError, match=r"claims shape|no readable header"):
        import_concepts_npz(path, tmp_path / "back.parquet")


def test_a_bomb_that_unpacks_to_one_giant_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_file, "MAX_ENTRY_BYTES", 2**20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in npz_import.CONCEPT_ARRAYS:
            file.writestr(f"{name}.npy", header((1, 2**19)) + bytes(2**21))
    assert path.stat().st_size < 2**15
    with pytest.raises(LvmError, match="claims shape"):
        import_concepts_npz(path, tmp_path / "back.parquet")


def test_more_objects_than_are_read_are_refused(concepts_path, tmp_path, monkeypatch):
    monkeypatch.setattr(npz_file, "MAX_OBJECT_BYTES", 500)
    path = write_npz(tmp_path / "o.npz", original_concepts(concepts_path))
    with pytest.raises(LvmError, match=r"bytes of objects in \w+, more than the 500"):
        import_concepts_npz(path, tmp_path / "back.parquet")
