import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvm_pipeline import files
from lvm_pipeline.concepts.content import ContentFingerprints
from lvm_pipeline.concepts.content_kinds import CONTENT, NEGATIVES, TEXTS
from lvm_pipeline.concepts.facts import read_facts
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.concepts.store import (
    NUM_ARRAYS_KEPT,
    ROW_GROUP_CONCEPTS,
    SOURCE_FINDINGS_KEY,
    ConceptsFingerprint,
    article_ranges,
    explain_full_disk,
    memory_mapped_vectors,
    read_columns,
    read_source_findings,
    read_vectors,
    stream_row_groups,
)
from lvm_pipeline.errors import LvmError
from lvm_pipeline_tests.synthetic import synthetic_table, write_concepts, write_synthetic_concepts
from lvm_pipeline_tests.worded import with_columns


def metadata_for(tmp_path, lengths):
    return read_concepts_metadata(
        write_synthetic_concepts(tmp_path / "plain.parquet", article_lengths=lengths, vector_dim=4)
    )


def pieces(table, sizes):
    start = 0
    for size in [*sizes, table.num_rows]:
        yield table.slice(start, size)
        start += size


def test_row_groups_end_where_articles_end(tmp_path):
    lengths = [ROW_GROUP_CONCEPTS - 10, 50, 3, 2 * ROW_GROUP_CONCEPTS, 40, ROW_GROUP_CONCEPTS, 7]
    table = synthetic_table(lengths, vector_dim=4)
    path = tmp_path / "concepts.parquet"

    write_concepts(path, pieces(table, [1, 777, 5000, 3, 9000]), metadata_for(tmp_path, lengths))

    groups = list(stream_row_groups(path, ["article_id", "row"]))
    assert len(groups) >= 4
    edges = [group["article_id"][0].as_py() != before["article_id"][-1].as_py() for before, group in pairwise(groups)]
    assert all(edges)
    assert all(group.num_rows >= ROW_GROUP_CONCEPTS for group in groups[:-1])
    assert pa.concat_tables(groups)["row"].to_pylist() == list(range(table.num_rows))


def test_a_table_is_read_as_written(tmp_path):
    lengths = [5, 9]
    table = synthetic_table(lengths, vector_dim=4)
    path = tmp_path / "concepts.parquet"

    write_concepts(path, [table], metadata_for(tmp_path, lengths))

    assert pq.read_table(path).equals(table)
    assert pq.read_table(path).schema.equals(table.schema)
    column = pq.ParquetFile(path).metadata.row_group(0).column(13)
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert column.compression == "ZSTD"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=8))
def test_fingerprint_does_not_depend_on_the_pieces(lengths, sizes):
    table = synthetic_table(lengths, vector_dim=4)
    digests = []
    for cuts in ([], sizes):
        fingerprint = ConceptsFingerprint()
        for piece in pieces(table, cuts):
            vectors = np.array(piece["vector"].to_pylist(), np.float32).reshape(-1, 4)
            fingerprint.update(piece["cpe_id"].to_pylist(), piece["article_id"].to_pylist(), vectors)
        digests.append(fingerprint.hexdigest())

    assert digests[0] == digests[1]


ALTERED = {
    "concept_text": pa.array(["x", None, "y", "z"], pa.string()),
    "domain": pa.array([1, None, 0, 3], pa.int16()),
    "task": pa.array([1, 2, 3, None], pa.int16()),
    "modifier": pa.array([4, 2, 3, 1], pa.int16()),
    "tmd_dense": pa.array([[0.5, None], None, [], [1.0]], pa.list_(pa.float32())),
    "soft_negatives": pa.array([["a", "b"], None, [], ["c"]], pa.list_(pa.string())),
    "hard_negatives": pa.array([["ab"], [None], [], None], pa.list_(pa.string())),
}


def content_of(table, sizes=()):
    content = ContentFingerprints()
    for piece in pieces(table, sizes):
        content.update(piece)
    return content.hexdigests()


@given(st.lists(st.integers(0, 3), max_size=4))
def test_the_content_fingerprint_does_not_depend_on_the_pieces(sizes):
    table = with_columns(synthetic_table([4], vector_dim=4), **ALTERED)
    assert content_of(table, sizes) == content_of(table)


@pytest.mark.parametrize("name", ALTERED)
def test_a_content_fingerprint_changes_with_the_columns_of_its_kind_and_nothing_else(name):
    table = synthetic_table([4], vector_dim=4)
    before, after = content_of(table), content_of(with_columns(table, **{name: ALTERED[name]}))
    assert [kind for kind in CONTENT if before[kind] != after[kind]] == [
        kind for kind, columns in CONTENT.items() if name in columns
    ]
    assert content_of(synthetic_table([4], vector_dim=4, seed=3)) == before


def test_neighbouring_lists_and_nulls_have_different_fingerprints():
    table = synthetic_table([4], vector_dim=4)
    columns = [[["a"], ["b"], [], []], [["a", "b"], [], [], []], [["ab"], [], [], []], [["a"], ["b"], None, []]]
    arrays = [pa.array(each, pa.list_(pa.string())) for each in columns]
    found = {content_of(with_columns(table, soft_negatives=each))[NEGATIVES] for each in arrays}
    assert len(found) == len(columns)


def test_a_table_says_its_content_fingerprints_and_those_of_earlier_versions_none(tmp_path):
    path, table = tmp_path / "concepts.parquet", synthetic_table([400, 5000], vector_dim=4)
    write_concepts(path, [table], metadata_for(tmp_path, [400]))
    metadata = read_concepts_metadata(path)
    assert metadata.content_fingerprints == content_of(table)
    assert len({metadata.content(kinds) for kinds in ((), (TEXTS,), (NEGATIVES,), CONTENT)}) == 4

    earlier = json.loads(pq.read_metadata(path).metadata[b"lvm"])
    del earlier["content_fingerprints"]
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"lvm": json.dumps(earlier)}), path)
    assert read_concepts_metadata(path).content(CONTENT) is None


def test_vectors_are_mapped_once_for_a_fingerprint(tmp_path):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[4, 9], vector_dim=8)
    expected = np.array(pq.read_table(path)["vector"].to_pylist(), np.float32)

    first = memory_mapped_vectors(path, tmp_path / "vectors")
    made = next((tmp_path / "vectors").iterdir()).stat()
    second = memory_mapped_vectors(path, tmp_path / "vectors")

    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, read_vectors(path))
    assert isinstance(second, np.memmap)
    assert not second.flags.writeable
    assert [file.name for file in (tmp_path / "vectors").iterdir()] == [
        f"{read_concepts_metadata(path).fingerprint}.npy"
    ]
    assert next((tmp_path / "vectors").iterdir()).stat().st_ino == made.st_ino


def test_a_damaged_array_is_made_again(tmp_path):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[4, 9], vector_dim=8)
    memory_mapped_vectors(path, tmp_path / "vectors")
    (array,) = (tmp_path / "vectors").iterdir()
    array.write_bytes(array.read_bytes()[:-7])

    np.testing.assert_array_equal(memory_mapped_vectors(path, tmp_path / "vectors"), read_vectors(path))


def make_arrays(tmp_path, seeds):
    """Map the vectors of several fingerprints, each used longer ago than the next; return the path of each array."""
    folder, paths = tmp_path / "vectors", []
    for seed in seeds:
        table = write_synthetic_concepts(tmp_path / f"{seed}.parquet", article_lengths=[6], vector_dim=8, seed=seed)
        memory_mapped_vectors(table, folder)
        paths.append(folder / f"{read_concepts_metadata(table).fingerprint}.npy")
        os.utime(paths[-1], (seed, seed))
    return paths


def test_arrays_of_old_fingerprints_do_not_pile_up(tmp_path):
    paths = make_arrays(tmp_path, range(NUM_ARRAYS_KEPT + 3))

    assert sorted((tmp_path / "vectors").iterdir()) == sorted(paths[3:])


def test_an_array_that_was_used_lately_is_kept(tmp_path):
    first, *others = make_arrays(tmp_path, range(NUM_ARRAYS_KEPT))
    memory_mapped_vectors(tmp_path / "0.parquet", tmp_path / "vectors")

    make_arrays(tmp_path, range(10, 10 + NUM_ARRAYS_KEPT))

    assert first.exists()
    assert not any(path.exists() for path in others)


def test_arrays_deleted_by_another_process_are_ignored(tmp_path, monkeypatch):
    listed = type(tmp_path).glob
    monkeypatch.setattr(type(tmp_path), "glob", lambda path, *args: [*listed(path, *args), path / "gone.npy"])

    assert all(path.exists() for path in make_arrays(tmp_path, range(NUM_ARRAYS_KEPT)))


def test_an_array_that_another_process_deletes_at_once_stays_mapped(tmp_path, monkeypatch):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[6], vector_dim=8)
    staged_file, losses = files.staged_file, []

    @contextmanager
    def lost_once(target):
        with staged_file(target) as staged:
            yield staged
        if not losses:
            losses.append(target)
            target.unlink()

    monkeypatch.setattr(files, "staged_file", lost_once)

    np.testing.assert_array_equal(memory_mapped_vectors(path, tmp_path / "vectors"), read_vectors(path))
    assert losses


def test_article_ranges_say_where_each_article_lies(tmp_path):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[4, 1, 9])

    articles = article_ranges(path)

    assert articles.first_rows.tolist() == [0, 4, 5]
    assert articles.lengths.tolist() == [4, 1, 9]
    ids = read_columns(path, ["article_id"])["article_id"].to_pylist()
    assert articles.ids == [ids[0], ids[4], ids[5]]


def test_an_article_in_two_runs_has_no_range(tmp_path):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[4, 4])
    table = pq.read_table(path)
    pq.write_table(table.take([0, 1, 4, 5, 6, 7, 2, 3]), path)

    with pytest.raises(LvmError, match="more than one run"):
        article_ranges(path)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "middle"])
def test_a_damaged_file_is_reported_in_one_sentence(tmp_path, damage):
    path = tmp_path / "concepts.parquet"
    write_concepts(path, [synthetic_table([400], vector_dim=4)], metadata_for(tmp_path, [400]))
    raw = path.read_bytes()
    middle = len(raw) // 2
    path.write_bytes(
        {
            "truncated": raw[:middle],
            "garbage": b"x" * 100,
            "empty": b"",
            "middle": raw[: middle - 50] + bytes(100) + raw[middle + 50 :],
        }[damage]
    )

    with pytest.raises(LvmError, match=r"cannot be read as Parquet .*extract the concepts again") as raised:
        read_columns(path, ["cpe_id", "concept_text", "vector"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damaged", [b"{", b"{}x", b"[3]", b'[{"name": "a"}]', b'[{"severity": "loud"}]'])
def test_damaged_findings_of_the_extraction_are_reported(tmp_path, damaged):
    path = tmp_path / "concepts.parquet"
    write_concepts(path, [synthetic_table([5], vector_dim=4)], metadata_for(tmp_path, [5]))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), SOURCE_FINDINGS_KEY: damaged}), path)
    with pytest.raises(LvmError, match="has invalid metadata; extract the concepts again"):
        read_source_findings(path)


def test_one_wrong_bit_in_the_vectors_is_reported(tmp_path):
    path = tmp_path / "concepts.parquet"
    write_concepts(path, [synthetic_table([400], vector_dim=4)], metadata_for(tmp_path, [400]))
    column = pq.read_metadata(path).row_group(0).column(13)
    raw = bytearray(path.read_bytes())
    for twelfth in range(2, 11):
        damaged = raw.copy()
        damaged[column.data_page_offset + column.total_compressed_size * twelfth // 12] ^= 1
        path.write_bytes(damaged)

        with pytest.raises(LvmError, match="cannot be read as Parquet"):
            read_vectors(path)


def test_a_missing_file_and_a_missing_column_are_reported(tmp_path):
    with pytest.raises(LvmError, match="no concept table"):
        read_vectors(tmp_path / "nothing.parquet")
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[3])
    with pytest.raises(LvmError, match="no column colour"):
        read_columns(path, ["colour"])


def test_a_file_that_says_another_count_is_refused(tmp_path):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[6], vector_dim=8)
    pq.write_table(pq.read_table(path).slice(0, 4), path)

    with pytest.raises(LvmError, match="holds 4 concepts where it says 6"):
        memory_mapped_vectors(path, tmp_path / "vectors")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_reported_in_one_sentence(tmp_path, number):
    with pytest.raises(LvmError, match=f"The disk that holds {tmp_path} is full"), explain_full_disk(tmp_path):
        raise OSError(number, "written nothing")


def test_other_errors_of_a_disk_stay_themselves(tmp_path):
    with pytest.raises(OSError, match="broken"), explain_full_disk(tmp_path):
        raise OSError(errno.EIO, "broken")


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from lvm_pipeline.concepts.extract import ExtractOptions, extract_concepts
    from lvm_pipeline.concepts.store import memory_mapped_vectors
    from lvm_pipeline.concepts.schema import read_concepts_metadata
    from lvm_pipeline.errors import LvmError
    from lvm_pipeline_tests.concepts.memory_source import MemorySource, source_rows
    from lvm_pipeline_tests.synthetic import synthetic_table, write_concepts

    folder = Path(sys.argv[1])
    rows = source_rows([500] * 20, vector_dim=16)
    actions = {
        "extract": lambda: extract_concepts(
            MemorySource(rows), options=ExtractOptions(), staged_path=folder / "staged.parquet"
        ),
        "write": lambda: write_concepts(
            folder / "concepts.parquet",
            [synthetic_table([5000, 5000], vector_dim=16)],
            read_concepts_metadata(folder / "concepts.parquet"),
        ),
        "map": lambda: memory_mapped_vectors(folder / "concepts.parquet", folder / "vectors"),
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow beyond this
    try:
        actions[sys.argv[2]]()
    except LvmError as error:
        print(error)
"""


@pytest.mark.parametrize("action", ["extract", "write", "map"])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path, action):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[3000], vector_dim=16)
    before = path.read_bytes()

    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path), action],
        capture_output=True,
        text=True,
        check=False,
    )

    assert child.stdout.startswith("The disk that holds"), child.stderr
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["concepts.parquet"]


@pytest.mark.parametrize("fails", [True, False])
def test_no_thread_is_left_of_the_writing(tmp_path, fails):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[3], vector_dim=16)

    def writers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("concepts-writer")]

    def pieces():
        yield synthetic_table([ROW_GROUP_CONCEPTS, 5], vector_dim=16)
        assert len(writers()) == 1
        if fails:
            raise ValueError("the source broke off")

    with pytest.raises(ValueError, match="broke off") if fails else nullcontext():
        write_concepts(path, pieces(), read_concepts_metadata(path))
    assert not writers()


@pytest.mark.parametrize("read", [read_facts, lambda path: read_columns(path, ["article_id", "concept_text"])])
def test_a_text_that_is_not_utf_8_is_named_with_its_row(read, tmp_path):
    path = write_synthetic_concepts(tmp_path / "concepts.parquet", article_lengths=[10] * 4, vector_dim=8)
    table = pq.read_table(path)
    texts = [text.encode() for text in table["concept_text"].to_pylist()]
    texts[27] = b"caf\xe9"
    column = table.schema.get_field_index("concept_text")
    harmed = table.set_column(column, table.schema.field(column), pa.array(texts, pa.binary()).view(pa.string()))
    pq.write_table(harmed, path, row_group_size=20)

    with pytest.raises(LvmError, match=r"The concept_text of row 27 of .* is not UTF-8"):
        read(path)
