"""Concepts from exchange files are the same again; files that are not what they say are refused in one sentence."""

import os
import uuid

import numpy as np
import pytest

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import read_columns, read_vectors
from lvm_pipeline.errors import LvmError
from lvm_pipeline.exchange import npz_import
from lvm_pipeline.exchange.npz_import import import_concepts_npz
from lvm_pipeline_tests.exchange.npz_files import (
    COLUMNS,
    NUM_CONCEPTS,
    objects,
    original_concepts,
    with_entry,
    write_npz,
)


def test_exported_concepts_come_back(exported, concepts_path, tmp_path):
    metadata = import_concepts_npz(exported[0], tmp_path / "back.parquet")
    assert read_columns(tmp_path / "back.parquet", COLUMNS).equals(read_columns(concepts_path, COLUMNS))
    np.testing.assert_array_equal(read_vectors(tmp_path / "back.parquet"), read_vectors(concepts_path))
    assert metadata == read_concepts_metadata(tmp_path / "back.parquet")
    assert (metadata.space_id, metadata.order_key) == ("synthetic", "document_id, sequence_index")
    assert metadata.order_warning is None


def test_the_original_form_comes_back_with_a_warning_about_its_order(concepts_path, tmp_path):
    path = write_npz(tmp_path / "o.npz", original_concepts(concepts_path))
    metadata = import_concepts_npz(path, tmp_path / "back.parquet", space_id="gtr")
    assert read_columns(tmp_path / "back.parquet", COLUMNS).equals(read_columns(concepts_path, COLUMNS))
    assert metadata.order_warning
    assert metadata.space_id == "gtr"
    assert import_concepts_npz(path, tmp_path / "back.parquet").space_id == "undeclared-32"


@pytest.mark.parametrize(
    "codes",
    [
        np.array([[1, 2, 3]] * NUM_CONCEPTS),
        np.array([1 << 11 | 2 << 6 | 3] * NUM_CONCEPTS),
        np.array([float(1 << 11 | 2 << 6 | 3)] * NUM_CONCEPTS),
        objects([(1, 2, 3)] * NUM_CONCEPTS),
        objects(["D1-T2-M3"] * NUM_CONCEPTS),
        objects([np.array([1, 2, 3])] * NUM_CONCEPTS),
        np.array(["1,2,3"] * NUM_CONCEPTS),
        np.array([str(1 << 11 | 2 << 6 | 3)] * NUM_CONCEPTS),
    ],
    ids=["rows", "packed", "floats", "tuples", "named", "arrays", "commas", "packed text"],
)
def test_codes_are_understood_however_they_are_written(concepts_path, tmp_path, codes):
    path = write_npz(tmp_path / "o.npz", original_concepts(concepts_path) | {"tmd_codes": codes})
    import_concepts_npz(path, tmp_path / "back.parquet")
    back = read_columns(tmp_path / "back.parquet", ["domain", "task", "modifier"]).to_pylist()
    assert back == [{"domain": 1, "task": 2, "modifier": 3}] * NUM_CONCEPTS


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_vectors_of_any_float_width_are_read(concepts_path, tmp_path, dtype):
    arrays = original_concepts(concepts_path)
    path = write_npz(tmp_path / "o.npz", arrays | {"vectors": arrays["vectors"].astype(dtype)})
    import_concepts_npz(path, tmp_path / "back.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "back.parquet"), arrays["vectors"].astype(dtype).astype("f4"))


def test_positions_may_count_from_one_and_articles_may_be_numbers(concepts_path, tmp_path):
    arrays = original_concepts(concepts_path)
    article_numbers = np.unique(arrays["batch_ids"].astype(str), return_inverse=True)[1].reshape(-1)
    changed = {"seq_in_article": arrays["seq_in_article"] + 1.0, "batch_ids": article_numbers}
    import_concepts_npz(write_npz(tmp_path / "o.npz", arrays | changed), tmp_path / "back.parquet")
    back = read_columns(tmp_path / "back.parquet", COLUMNS)
    assert back["position"].equals(read_columns(concepts_path, COLUMNS)["position"])
    assert back["article_id"].to_pylist() == [str(number) for number in article_numbers]


def swapped(arrays):
    order = [1, 0, *range(2, NUM_CONCEPTS)]
    return {name: array[order] for name, array in arrays.items() if array.ndim}


def torn(arrays):
    return {"batch_ids": objects([*arrays["batch_ids"][:-2], arrays["batch_ids"][0], arrays["batch_ids"][0]])}


def bad_letters():
    return np.full(NUM_CONCEPTS, 2**31 - 1, dtype="<u4").view("<U1")


BAD_CONCEPTS = {
    "NaN": (with_entry("vectors", (4, 7), np.nan), r"not finite.* in row 4 of vectors"),
    "infinity": (with_entry("vectors", (4, 7), np.inf), r"not finite.* in row 4 of vectors"),
    "overflow": (lambda a: {"vectors": a["vectors"].astype("f8") * 1e300}, "not finite"),
    "vectors of one axis": (lambda a: {"vectors": a["vectors"].ravel()}, "not vectors of 2 axes"),
    "vectors of integers": (lambda a: {"vectors": np.ones((NUM_CONCEPTS, 4), int)}, "not vectors of 2 axes"),
    "no vectors": (lambda _: {"vectors": np.ones((0, 4))}, "not vectors of 2 axes"),
    "vectors as objects": (lambda a: {"vectors": a["vectors"].astype(object)}, "not vectors of 2 axes"),
    "columns first": (lambda a: {"vectors": np.asfortranarray(a["vectors"])}, "Fortran"),
    "fewer texts": (lambda a: {"concept_texts": a["concept_texts"][:-1]}, f"{NUM_CONCEPTS} entries are expected"),
    "fewer vectors": (lambda a: {"vectors": a["vectors"][:-1]}, f"{NUM_CONCEPTS - 1} entries are expected"),
    "a text that is none": (with_entry("concept_texts", 3, uuid.UUID(int=3)), "row 3 of concept_texts"),
    "no article": (with_entry("batch_ids", 3, None), "has no name in row 3 of batch_ids"),
    "no id": (with_entry("cpe_ids", 3, ""), "has no name in row 3 of cpe_ids"),
    "a code out of range": (with_entry("tmd_codes", 3, "16.0.0"), "row 3 of tmd_codes, which is not a TMD code"),
    "a code of words": (with_entry("tmd_codes", 3, "science"), "row 3 of tmd_codes, which is not a TMD code"),
    "a code of one number too many": (lambda _: {"tmd_codes": np.ones((NUM_CONCEPTS, 4), int)}, "not a TMD code"),
    "half a code": (lambda _: {"tmd_codes": np.full((NUM_CONCEPTS, 3), 0.5)}, "not a TMD code"),
    "a text that cannot be written": (with_entry("concept_texts", 3, "\ud800"), "text cannot be stored"),
    "letters that are none": (lambda _: {"cpe_ids": bad_letters()}, "invalid characters in cpe_ids"),
    "metadata of no letters": (lambda _: {"metadata": bad_letters()[:1].reshape(())}, "invalid characters in metadata"),
    "two sets of metadata": (lambda _: {"metadata": np.array(["a", "b"])}, "single value is expected"),
    "disorder": (swapped, r"not in order: row 0 of article"),
    "a gap": (lambda a: {"seq_in_article": a["seq_in_article"] * 2}, r"not in order: row 1 of article"),
    "no positions": (lambda a: {"seq_in_article": objects(["x"] * NUM_CONCEPTS)}, "not whole numbers"),
    "two runs": (torn, "goes on in row"),
    "structures": (lambda _: {"cpe_ids": np.zeros(NUM_CONCEPTS, "i4,i4")}, "structures"),
    "times": (lambda _: {"cpe_ids": np.zeros(NUM_CONCEPTS, "M8[s]")}, "text or numbers are expected"),
}


@pytest.mark.parametrize(("harm", "message"), BAD_CONCEPTS.values(), ids=BAD_CONCEPTS)
def test_bad_concepts_are_reported_and_nothing_is_overwritten(concepts_path, tmp_path, harm, message):
    arrays = original_concepts(concepts_path)
    (tmp_path / "back.parquet").write_text("earlier")
    with np.errstate(over="ignore"):
        path = write_npz(tmp_path / "o.npz", arrays | harm(arrays))

    with pytest.raises(LvmError, match=message) as raised:
        import_concepts_npz(path, tmp_path / "back.parquet")

    assert str(path) in str(raised.value) or "text cannot be stored" in str(raised.value)
    assert (tmp_path / "back.parquet").read_text() == "earlier"
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]


@pytest.mark.parametrize("missing", npz_import.CONCEPT_ARRAYS)
def test_a_missing_array_is_named(concepts_path, tmp_path, missing):
    arrays = original_concepts(concepts_path)
    del arrays[missing]
    with pytest.raises(LvmError, match=rf"lacks the arrays {missing} \(it holds"):
        import_concepts_npz(write_npz(tmp_path / "o.npz", arrays), tmp_path / "back.parquet")


def test_two_names_of_a_space_are_refused(exported, tmp_path):
    with pytest.raises(LvmError, match="of the space synthetic, not other"):
        import_concepts_npz(exported[0], tmp_path / "back.parquet", space_id="other")


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["cpe_ids", "concept_texts", "batch_ids", "tmd_codes", "seq_in_article", "metadata"])
def test_a_file_that_would_run_a_command_is_refused_by_name(concepts_path, tmp_path, name):
    arrays = original_concepts(concepts_path)
    evil = Evil(f"touch {tmp_path / 'marker'}")
    if name == "metadata":
        arrays[name] = np.array(evil, dtype=object)
    else:
        arrays[name] = objects([*arrays[name][:-1], evil])
    path = write_npz(tmp_path / "o.npz", arrays)
    with pytest.raises(LvmError, match=rf"{name} would import posix\.system.*nothing of it was executed"):
        import_concepts_npz(path, tmp_path / "back.parquet")
    assert not (tmp_path / "marker").exists()
