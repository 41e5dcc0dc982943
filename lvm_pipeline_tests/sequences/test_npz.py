"""The exchange files: what is exported loads without pickle, and what is imported is the same again."""

import io
import json
import os
import uuid
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import read_columns, read_vectors
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity, blocking_failures
from lvm_pipeline.sequences import npz_arrays, npz_import
from lvm_pipeline.sequences.npz import export_npz
from lvm_pipeline.sequences.npz_import import import_concepts_npz, import_sequences_npz
from lvm_pipeline.sequences.schema import read_sequences
from lvm_pipeline_tests.synthetic import (
    article_vectors,
    synthetic_table,
    write_synthetic_concepts,
    write_synthetic_sequences,
    write_table,
)

LENGTHS = [9, 3, 12, 7, 8, 10, 6, 9, 11, 8]
NUM_CONCEPTS = sum(LENGTHS)
NUM_SEQUENCES = sum(max(0, n - 5) for n in LENGTHS)
COLUMNS = ["row", "cpe_id", "article_id", "article_index", "position", "concept_text", "domain", "task", "modifier"]


@pytest.fixture
def concepts_path(tmp_path):
    return write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=LENGTHS, kind="noise")


@pytest.fixture
def sequences_path(concepts_path, tmp_path):
    return write_synthetic_sequences(concepts_path, tmp_path / "sequences.parquet")


@pytest.fixture
def exported(concepts_path, sequences_path, tmp_path):
    return export_npz(concepts_path, sequences_path, tmp_path / "npz")


def objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def original_concepts(concepts_path):
    """The arrays as the format began: objects wherever it is not numbers."""
    columns = read_columns(concepts_path, COLUMNS).to_pydict()
    codes = zip(columns["domain"], columns["task"], columns["modifier"], strict=True)
    return {
        "cpe_ids": objects([uuid.UUID(cpe_id) for cpe_id in columns["cpe_id"]]),
        "concept_texts": objects(columns["concept_text"]),
        "vectors": read_vectors(concepts_path),
        "tmd_codes": objects([".".join(map(str, code)) for code in codes]),
        "batch_ids": objects(columns["article_id"]),
        "seq_in_article": np.array(columns["position"]),
        "metadata": np.array({"total": NUM_CONCEPTS, "source": "user_input"}, dtype=object),
    }


def original_sequences(num_concepts=40, context_length=5, vector_dim=16, seed=0):
    """Sequences over one unbroken table, with nothing that names articles."""
    vectors = article_vectors(num_concepts, vector_dim, kind="noise", rng=np.random.default_rng(seed))
    starts = np.arange(num_concepts - context_length)
    return vectors, {
        "context_sequences": vectors[starts[:, None] + np.arange(context_length)],
        "target_vectors": vectors[starts + context_length],
        "target_texts": objects([f"text {start}" for start in starts]),
        "target_tmds": objects(["1.2.3" for _ in starts]),
        "sequence_positions": starts,
    }


def write_npz(path, arrays):
    np.savez(path, **arrays)
    return path


# --- export ---------------------------------------------------------------------------------------


def test_the_files_have_their_names_and_load_without_pickle(exported, concepts_path, sequences_path):
    assert [path.name for path in exported] == [
        f"wikipedia_{NUM_CONCEPTS}_ordered.npz",
        f"wikipedia_{NUM_CONCEPTS}_ordered_metadata.json",
        "training_sequences_ctx5.npz",
    ]
    columns = read_columns(concepts_path, COLUMNS).to_pydict()
    with np.load(exported[0]) as concepts:  # refuses pickles
        assert concepts["cpe_ids"].tolist() == columns["cpe_id"]
        assert concepts["concept_texts"].tolist() == columns["concept_text"]
        assert concepts["batch_ids"].tolist() == columns["article_id"]
        assert concepts["seq_in_article"].tolist() == columns["position"]
        assert concepts["tmd_codes"][7] == "7.7.7"
        np.testing.assert_array_equal(concepts["vectors"], read_vectors(concepts_path), strict=True)
        metadata = json.loads(concepts["metadata"].item())
    assert json.loads(exported[1].read_text()) == metadata
    assert (metadata["num_concepts"], metadata["space_id"], metadata["num_articles"]) == (NUM_CONCEPTS, "synthetic", 10)


def test_exported_sequences_are_contexts_and_their_targets(exported, concepts_path, sequences_path):
    sequences, vectors = read_sequences(sequences_path), read_vectors(concepts_path)
    texts = read_columns(concepts_path, ["concept_text"])["concept_text"].to_pylist()
    with np.load(exported[2]) as arrays:
        assert arrays["context_sequences"].shape == (NUM_SEQUENCES, 5, 32)
        for index in range(NUM_SEQUENCES):
            first, target = sequences.first_rows[index], sequences.target_rows[index]
            np.testing.assert_array_equal(arrays["context_sequences"][index], vectors[first:target])
            np.testing.assert_array_equal(arrays["target_vectors"][index], vectors[target])
            assert arrays["target_texts"][index] == texts[target]
        assert arrays["target_tmds"].shape == (NUM_SEQUENCES,)
        assert arrays["sequence_positions"].tolist() == sequences.target_rows.tolist()


def test_pieces_of_any_size_give_the_same_bytes(exported, concepts_path, sequences_path, tmp_path, monkeypatch):
    monkeypatch.setattr("lvm_pipeline.sequences.npz.PIECE_BYTES", 700)
    monkeypatch.setattr(npz_arrays, "PIECE_BYTES", 700)
    again = export_npz(concepts_path, sequences_path, tmp_path / "again")
    for first, second in zip(exported, again, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_sequences_of_other_concepts_are_not_exported(sequences_path, tmp_path):
    other = write_synthetic_concepts(tmp_path / "other.parquet", article_lengths=LENGTHS, seed=5)
    with pytest.raises(LvmError, match="build the sequences again"):
        export_npz(other, sequences_path, tmp_path / "npz")
    assert not (tmp_path / "npz").exists()


def test_missing_texts_and_codes_are_empty(tmp_path):
    table = synthetic_table([8] * 8, kind="noise")
    columns = {name: table[name] for name in table.schema.names}
    columns["concept_text"] = [None, *columns["concept_text"].to_pylist()[1:]]
    columns["task"] = [None] * table.num_rows
    concepts_path = write_table(pa.table(columns, schema=table.schema), tmp_path / "c.parquet")
    sequences_path = write_synthetic_sequences(concepts_path, tmp_path / "s.parquet")
    concepts_npz, *_ = export_npz(concepts_path, sequences_path, tmp_path)
    with np.load(concepts_npz) as arrays:
        assert arrays["concept_texts"][0] == ""
        assert set(arrays["tmd_codes"].tolist()) == {""}
    import_concepts_npz(concepts_npz, tmp_path / "back.parquet")
    back = read_columns(tmp_path / "back.parquet", ["concept_text", "domain"])
    assert back["concept_text"][0].as_py() is None
    assert back["domain"].null_count == back.num_rows


def test_a_text_too_long_for_numpy_is_told(monkeypatch, concepts_path, sequences_path, tmp_path):
    monkeypatch.setattr(npz_arrays, "MAX_TEXT_ARRAY_BYTES", 1000)
    with pytest.raises(LvmError, match="longest text has 36 characters"):
        export_npz(concepts_path, sequences_path, tmp_path / "npz")
    assert list((tmp_path / "npz").iterdir()) == []


# --- import of concepts ---------------------------------------------------------------------------


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


def with_entry(name, row, value):
    def harm(arrays):
        array = arrays[name].copy() if isinstance(value, float | int) else arrays[name].astype(object)
        array[row] = value
        return {name: array}

    return harm


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
    "no article": (with_entry("batch_ids", 3, None), "names nothing in row 3 of batch_ids"),
    "no id": (with_entry("cpe_ids", 3, ""), "names nothing in row 3 of cpe_ids"),
    "a code out of range": (with_entry("tmd_codes", 3, "16.0.0"), "row 3 of tmd_codes, which is no TMD code"),
    "a code of words": (with_entry("tmd_codes", 3, "science"), "row 3 of tmd_codes, which is no TMD code"),
    "a code of one number too many": (lambda _: {"tmd_codes": np.ones((NUM_CONCEPTS, 4), int)}, "no TMD code"),
    "half a code": (lambda _: {"tmd_codes": np.full((NUM_CONCEPTS, 3), 0.5)}, "no TMD code"),
    "a text that cannot be written": (with_entry("concept_texts", 3, "\ud800"), "text cannot be stored"),
    "letters that are none": (lambda _: {"cpe_ids": bad_letters()}, "text in cpe_ids that is none"),
    "metadata of no letters": (lambda _: {"metadata": bad_letters()[:1].reshape(())}, "text in metadata that is none"),
    "two sets of metadata": (lambda _: {"metadata": np.array(["a", "b"])}, "single value is expected"),
    "disorder": (swapped, r"not in order: row 0 of article"),
    "a gap": (lambda a: {"seq_in_article": a["seq_in_article"] * 2}, r"not in order: row 1 of article"),
    "no positions": (lambda a: {"seq_in_article": objects(["x"] * NUM_CONCEPTS)}, "no whole numbers"),
    "two runs": (torn, "goes on in row"),
    "structures": (lambda _: {"cpe_ids": np.zeros(NUM_CONCEPTS, "i4,i4")}, "structures"),
    "times": (lambda _: {"cpe_ids": np.zeros(NUM_CONCEPTS, "M8[s]")}, "text or numbers are expected"),
}


@pytest.mark.parametrize(("harm", "message"), BAD_CONCEPTS.values(), ids=BAD_CONCEPTS)
def test_bad_concepts_are_told_and_leave_what_was_there(concepts_path, tmp_path, harm, message):
    arrays = original_concepts(concepts_path)
    (tmp_path / "back.parquet").write_text("earlier")
    with np.errstate(over="ignore"):
        path = write_npz(tmp_path / "o.npz", arrays | harm(arrays))

    with pytest.raises(LvmError, match=message) as told:
        import_concepts_npz(path, tmp_path / "back.parquet")

    assert str(path) in str(told.value) or "text cannot be stored" in str(told.value)
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
    with pytest.raises(LvmError, match=rf"{name} would use posix\.system while loading.*nothing of it was executed"):
        import_concepts_npz(path, tmp_path / "back.parquet")
    assert not (tmp_path / "marker").exists()


# --- damaged files --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_told(exported, tmp_path, share):
    data = exported[0].read_bytes()
    exported[0].write_bytes(data[: int(share * len(data))])
    with pytest.raises(LvmError, match="damaged or no NPZ file"):
        import_concepts_npz(exported[0], tmp_path / "back.parquet")


def test_bytes_changed_inside_are_told(exported, tmp_path):
    data = bytearray(exported[2].read_bytes())
    data[5000:5100] = bytes(100)
    exported[2].write_bytes(bytes(data))
    with pytest.raises(LvmError, match="damaged or no NPZ file"):
        import_sequences_npz(exported[2], tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"text"])
def test_what_is_no_zip_is_told(tmp_path, content):
    (tmp_path / "o.npz").write_bytes(content)
    with pytest.raises(LvmError, match="damaged or no NPZ file"):
        import_concepts_npz(tmp_path / "o.npz", tmp_path / "back.parquet")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(LvmError, match="no NPZ file at"):
        import_sequences_npz(tmp_path / "none.npz", tmp_path / "c.parquet", tmp_path / "s.parquet")


def test_two_arrays_of_one_name_are_refused(exported, tmp_path):
    with zipfile.ZipFile(exported[0], "a") as file:
        file.writestr("vectors", b"")
    with pytest.raises(LvmError, match="two arrays of one name"):
        import_concepts_npz(exported[0], tmp_path / "back.parquet")


@pytest.mark.parametrize("metadata", ["no JSON", "[1, 2]", 7, None])
def test_metadata_that_says_nothing_known_is_passed_over(concepts_path, tmp_path, metadata):
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
    monkeypatch.setattr(npz_arrays, "MAX_ENTRY_BYTES", 2**20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in npz_import.CONCEPT_ARRAYS:
            file.writestr(f"{name}.npy", header((1, 2**19)) + bytes(2**21))
    assert path.stat().st_size < 2**15
    with pytest.raises(LvmError, match="claims shape"):
        import_concepts_npz(path, tmp_path / "back.parquet")


def test_more_objects_than_are_read_are_refused(concepts_path, tmp_path, monkeypatch):
    monkeypatch.setattr(npz_arrays, "MAX_OBJECT_BYTES", 500)
    path = write_npz(tmp_path / "o.npz", original_concepts(concepts_path))
    with pytest.raises(LvmError, match=r"bytes of objects in \w+, more than the 500"):
        import_concepts_npz(path, tmp_path / "back.parquet")


# --- import of sequences --------------------------------------------------------------------------


def test_exported_sequences_come_back_with_articles_and_splits(exported, concepts_path, sequences_path, tmp_path):
    findings = import_sequences_npz(exported[2], tmp_path / "c.parquet", tmp_path / "s.parquet")

    before, after = read_sequences(sequences_path), read_sequences(tmp_path / "s.parquet")
    vectors, again = read_vectors(concepts_path), read_vectors(tmp_path / "c.parquet")
    assert all(finding.passed for finding in findings)
    assert not after.metadata.is_leaking
    assert (after.metadata.split_rule, after.metadata.split_seed) == ("seeded_hash", before.metadata.split_seed)
    assert after.article_ids.tolist() == before.article_ids.tolist()
    assert after.splits.tolist() == before.splits.tolist()
    assert len(again) == sum(n for n in LENGTHS if n > 5)
    for offset in range(6):
        np.testing.assert_array_equal(again[after.first_rows + offset], vectors[before.first_rows + offset])
    texts = read_columns(concepts_path, ["concept_text"])["concept_text"].take(before.target_rows)
    assert read_columns(tmp_path / "c.parquet", ["concept_text"])["concept_text"].take(after.target_rows).equals(texts)


def test_a_file_without_articles_is_put_together_exactly_and_labelled_as_leaking(tmp_path):
    vectors, arrays = original_sequences(num_concepts=40)
    path = write_npz(tmp_path / "t.npz", arrays)

    findings = import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet", space_id="gtr")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    assert len(rows) == 40 + 5  # validation is a run of its own, with its five context concepts again
    for offset in range(6):
        np.testing.assert_array_equal(rows[sequences.first_rows + offset], vectors[np.arange(35) + offset])
    assert sequences.splits.tolist() == ["train"] * 28 + ["validation"] * 7
    assert sequences.metadata.is_leaking
    assert "names no articles" in str(sequences.metadata.leak_reason)
    assert sequences.metadata.split_rule == "last_20_percent"
    assert read_concepts_metadata(tmp_path / "c.parquet").space_id == "gtr"
    failed = {finding.name: finding.severity for finding in findings if not finding.passed}
    assert failed["sequences_do_not_leak"] is Severity.WARNING
    assert failed["no_near_duplicate_across_splits"] is Severity.WARNING  # the five concepts
    assert not blocking_failures(findings)


def test_sequences_in_any_order_are_put_together_too(tmp_path):
    _, arrays = original_sequences(num_concepts=40)
    order = np.random.default_rng(0).permutation(35)
    shuffled = {name: array[order] for name, array in arrays.items()}
    path = write_npz(tmp_path / "t.npz", shuffled)

    import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    contexts = rows[sequences.first_rows[:, None] + np.arange(5)]
    np.testing.assert_array_equal(contexts, shuffled["context_sequences"])
    np.testing.assert_array_equal(rows[sequences.target_rows], shuffled["target_vectors"])
    texts = read_columns(tmp_path / "c.parquet", ["concept_text"])["concept_text"].to_pylist()
    assert [texts[row] for row in sequences.target_rows] == shuffled["target_texts"].tolist()


@pytest.mark.parametrize("piece_bytes", [1, 900, 10**6])
@pytest.mark.parametrize("context_length", [1, 5])
def test_the_size_of_a_piece_changes_nothing(tmp_path, monkeypatch, piece_bytes, context_length):
    monkeypatch.setattr(npz_import, "PIECE_BYTES", piece_bytes)
    vectors, arrays = original_sequences(num_concepts=30, context_length=context_length)
    breaks = np.delete(np.arange(30 - context_length), [4, 5, 11])  # three sequences are missing
    path = write_npz(tmp_path / "t.npz", {name: array[breaks] for name, array in arrays.items()})

    import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    for offset in range(context_length + 1):
        np.testing.assert_array_equal(rows[sequences.first_rows + offset], vectors[breaks + offset])
    columns = read_columns(tmp_path / "c.parquet", ["article_id", "position"]).to_pydict()
    expected, before = [], None
    for article_id in columns["article_id"]:
        expected.append(expected[-1] + 1 if article_id == before else 0)
        before = article_id
    assert columns["position"] == expected
    assert len(set(columns["article_id"])) == 4  # two gaps and the split


def one_step_too_far(vectors, starts):
    return vectors[starts[:-1, None] + np.arange(5)], vectors[starts[:-1] + 6]


def other_concepts_before_the_last(vectors, starts):
    contexts = vectors[starts[:, None] + np.arange(5)]
    contexts[:, 0] = vectors[::-1][starts]
    contexts[:, 1] = vectors[::-1][starts + 1]
    return contexts, vectors[starts + 5]


def one_concept_again_and_again(vectors, starts):
    return np.tile(vectors[0], (len(starts), 5, 1)), np.tile(vectors[0], (len(starts), 1))


@pytest.mark.parametrize(
    ("arrange", "num_rows"),
    [
        (one_step_too_far, 34 * 6),
        (other_concepts_before_the_last, 35 * 6),
        (one_concept_again_and_again, 6 + 27 + 6 + 6),
    ],
)
def test_only_what_truly_overlaps_shares_rows(tmp_path, arrange, num_rows):
    vectors, _ = original_sequences(num_concepts=40)
    contexts, targets = arrange(vectors, np.arange(35))
    path = write_npz(tmp_path / "t.npz", {"context_sequences": contexts, "target_vectors": targets})

    import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    sequences, rows = read_sequences(tmp_path / "s.parquet"), read_vectors(tmp_path / "c.parquet")
    assert len(rows) == num_rows
    np.testing.assert_array_equal(rows[sequences.first_rows[:, None] + np.arange(5)], contexts)
    np.testing.assert_array_equal(rows[sequences.target_rows], targets)


def test_a_leaking_export_stays_leaking(concepts_path, tmp_path):
    leaking = write_synthetic_sequences(
        concepts_path, tmp_path / "l.parquet", boundaries="ignore", split="last_20_percent"
    )
    *_, path = export_npz(concepts_path, leaking, tmp_path / "npz")

    findings = import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")

    before, after = read_sequences(leaking), read_sequences(tmp_path / "s.parquet")
    assert after.metadata.is_leaking
    assert after.metadata.leak_reason == before.metadata.leak_reason
    assert after.splits.tolist() == before.splits.tolist()
    vectors, again = read_vectors(concepts_path), read_vectors(tmp_path / "c.parquet")
    for offset in range(6):
        np.testing.assert_array_equal(again[after.first_rows + offset], vectors[before.first_rows + offset])
    assert not blocking_failures(findings)


def test_articles_without_splits_are_split_by_hash(tmp_path):
    _, arrays = original_sequences(num_concepts=6 * 60)
    starts = [start for start in range(6 * 60 - 5) if start % 6 == 0]
    arrays = {name: array[starts] for name, array in arrays.items()}
    arrays["article_ids"] = np.array([f"article {start}" for start in starts])
    findings = import_sequences_npz(
        write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet"
    )
    metadata = read_sequences(tmp_path / "s.parquet").metadata
    assert (metadata.split_rule, metadata.is_leaking) == ("seeded_hash", False)
    assert all(finding.passed for finding in findings)


def test_an_article_whose_sequences_do_not_follow_each_other_is_named(tmp_path):
    _, arrays = original_sequences()
    arrays["article_ids"] = np.array(["a"] * 10 + ["b"] * 20 + ["a"] * 5)
    path = write_npz(tmp_path / "t.npz", arrays)
    with pytest.raises(LvmError, match="sequences of article a that do not follow"):
        import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")


BAD_SEQUENCES = {
    "NaN in a context": (with_entry("context_sequences", (3, 2, 1), np.nan), "row 3 of context_sequences"),
    "NaN in a target": (with_entry("target_vectors", (3, 1), np.nan), "row 3 of target_vectors"),
    "two axes": (lambda a: {"context_sequences": a["target_vectors"]}, "not vectors of 3 axes"),
    "another width": (lambda a: {"target_vectors": a["target_vectors"][:, :-1]}, "beside 35 contexts of vectors of 16"),
    "fewer targets": (lambda a: {"target_vectors": a["target_vectors"][:-1]}, "beside 35 contexts"),
    "fewer texts": (lambda a: {"target_texts": a["target_texts"][:-1]}, "35 entries are expected"),
    "unknown splits": (lambda _: {"splits": np.array(["val"] * 35)}, r"unknown splits \(val\)"),
    "a bad code": (lambda _: {"target_tmds": np.array([99999] * 35)}, "no TMD code"),
}


@pytest.mark.parametrize(("harm", "message"), BAD_SEQUENCES.values(), ids=BAD_SEQUENCES)
def test_bad_sequences_are_told_and_nothing_is_written(tmp_path, harm, message):
    _, arrays = original_sequences()
    path = write_npz(tmp_path / "t.npz", arrays | harm(arrays))
    with pytest.raises(LvmError, match=message):
        import_sequences_npz(path, tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert [left.name for left in tmp_path.iterdir()] == ["t.npz"]


@pytest.mark.parametrize("missing", npz_import.SEQUENCE_ARRAYS)
def test_missing_sequences_are_named(tmp_path, missing):
    _, arrays = original_sequences()
    del arrays[missing]
    with pytest.raises(LvmError, match=f"lacks the arrays {missing}"):
        import_sequences_npz(write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet")


def test_vectors_and_nothing_else_are_enough(tmp_path):
    _, arrays = original_sequences()
    arrays = {name: arrays[name] for name in npz_import.SEQUENCE_ARRAYS}
    import_sequences_npz(write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert pq.read_table(tmp_path / "c.parquet", columns=["concept_text"])["concept_text"].null_count == 45


def test_tmd_vectors_are_no_codes(tmp_path):
    _, arrays = original_sequences()
    arrays["target_tmds"] = np.ones((35, 16), dtype="f4")
    import_sequences_npz(write_npz(tmp_path / "t.npz", arrays), tmp_path / "c.parquet", tmp_path / "s.parquet")
    assert pq.read_table(tmp_path / "c.parquet", columns=["domain"])["domain"].null_count == 45
