"""Files are read the same however they are packed, piped or encoded, and what a file is is said where it cannot be."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.errors import LvmError, ServiceError
from lvm_pipeline.inference.reading import read_file
from lvm_pipeline.source.given_file import plain_file
from lvm_pipeline.source.load import ingest
from lvm_pipeline.source.records import BadInputError
from lvm_pipeline_tests.source.given_files import articles, rows

LINES = "\n".join(map(json.dumps, articles(12))).encode()
PACKED = {
    "gzip": gzip.compress(LINES),
    "bzip2": bz2.compress(LINES),
    "xz": lzma.compress(LINES),
    "zstd": pa.compress(LINES, codec="zstd", asbytes=True),
    "gzip of xz": gzip.compress(lzma.compress(LINES)),
    "UTF-8 with a mark": LINES.decode().encode("utf-8-sig"),
    "UTF-16": LINES.decode().encode("utf-16"),
    "UTF-16 without a mark": LINES.decode().encode("utf-16-le"),
    "UTF-32": LINES.decode().encode("utf-32"),
    "UTF-16 in gzip": gzip.compress(LINES.decode().encode("utf-16")),
    "an array over several lines": json.dumps(articles(12), indent=2).encode(),
    "an array in one line": json.dumps(articles(12)).encode(),
    "texts over several lines": "\n".join(json.dumps(each, indent=2) for each in articles(12)).encode(),
}


@pytest.fixture
def ingested(table, settings):
    def run(path, **options):
        report = ingest(path, table, settings=settings, **options)
        return report, table

    return run


def packed(times):
    content = LINES
    for _ in range(times):
        content = gzip.compress(content)
    return content


def test_a_file_may_be_packed_four_times_and_keeps_its_name(ingested, tmp_path):
    path = tmp_path / "given.jsonl.gz"
    path.write_bytes(packed(4))
    report, table = ingested(path)
    assert list(table.articles()) == [each["title"] for each in articles(12)]
    assert report.path == str(path)

    path.write_bytes(packed(5))
    with pytest.raises(LvmError, match=r"given.jsonl.gz is packed more than 4 times"):
        ingested(path)


def test_a_bad_packed_file_is_called_as_it_was_given(ingested, tmp_path):
    path = tmp_path / "given.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"title": 1}\n'))
    with pytest.raises(BadInputError, match=r"^given.jsonl.gz has 1 bad line"):
        ingested(path)


@pytest.mark.parametrize("name", PACKED)
def test_articles_are_read_however_they_are_packed(ingested, tmp_path, name):
    path = tmp_path / "given.jsonl"
    path.write_bytes(PACKED[name])

    _, table = ingested(path)

    assert list(table.articles()) == [each["title"] for each in articles(12)]
    assert path.read_bytes() == PACKED[name]


def test_one_article_over_several_lines_is_read(ingested, tmp_path):
    path = tmp_path / "given.json"
    text = "\n".join(json.dumps(each, indent=1) for each in articles(1))
    path.write_text(text)

    report, _ = ingested(path)

    assert report.num_inserted == 6


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda text: text.replace('"concepts"', "concepts", 1), r"\(Expecting .* at line 4, column 3\)"),
        (lambda text: text[: text.rindex("]")], r"\(Expecting ',' delimiter at line \d+, column 3\)"),
    ],
    ids=["inside", "cut off"],
)
def test_a_syntax_error_of_an_array_is_named_once(ingested, tmp_path, harm, sentence):
    path = tmp_path / "given.json"
    path.write_text(harm(json.dumps(articles(12), indent=1)))

    with pytest.raises(LvmError, match=rf"^given.json is not JSON {sentence}; correct the file\.$"):
        ingested(path)


@pytest.mark.parametrize(
    "text", ["title,text\nA,B\n", "A text.\nOf two lines.\n", 'id,"text"\n1,"A ""b"" c"\n2,3\n"q"\n']
)
def test_a_file_without_any_json_is_said_to_be_none(ingested, tmp_path, text):
    path = tmp_path / "given.csv"
    path.write_text(text)

    with pytest.raises(LvmError, match=r"^given.csv holds no JSON; give JSON lines of articles.*pandas converts CSV"):
        ingested(path)


def test_a_file_in_another_encoding_is_said_to_need_conversion(ingested, tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_bytes('{"title": "Caf\u00e9", "text": "words"}'.encode("latin-1"))
    with pytest.raises(BadInputError, match=r"not UTF-8 at byte 14\)\. Write the file as UTF-8 \(as with `iconv "):
        ingested(path)


def test_a_folder_is_said_to_be_one(ingested, tmp_path):
    with pytest.raises(LvmError, match=r"is a folder; name a file in it\.$"):
        ingested(tmp_path)


def test_a_path_that_cannot_be_looked_up_is_refused(ingested, tmp_path):
    with pytest.raises(LvmError, match=r"a{300} cannot be read \(File name too long\); check the path"):
        ingested(tmp_path / ("a" * 300))


def test_a_full_disk_is_not_called_a_damaged_file(tmp_path):
    path = tmp_path / "given.jsonl.gz"
    path.write_bytes(PACKED["gzip"])
    (tmp_path / "unpacked-0").mkdir()
    (tmp_path / "unpacked-0" / path.name).symlink_to("/dev/full")  # every write fails with ENOSPC

    with (
        pytest.raises(ServiceError, match=r"^The disk that holds .*unpacked-0 is full, so .*given.jsonl.gz cannot"),
        plain_file(path, folder=tmp_path),
    ):
        pass


@pytest.mark.parametrize("options", [pa.ipc.new_file, pa.ipc.new_stream], ids=["file", "stream"])
def test_arrow_files_are_read(ingested, tmp_path, options):
    with options(tmp_path / "given.arrow", rows().schema) as writer:
        writer.write_table(rows())

    report, _ = ingested(tmp_path / "given.arrow")

    assert report.num_inserted == 5
    assert [each.location for each in read_file(tmp_path / "given.arrow")] == [
        f"row {number}" for number in range(1, 6)
    ]


def test_standard_input_and_pipes_are_read(ingested, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(LINES))))
    report, _ = ingested(Path("-"))
    assert (report.num_inserted, report.path) == (72, "input")

    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(LINES,), daemon=True).start()
    assert ingested(tmp_path / "pipe")[0].num_known == 72


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"PK\x03\x04", "NPZ; import it with `lvm import`"), (b"\x93NUMPY", "NPY"), (b"%PDF-1.7", "PDF")],
)
def test_what_a_file_is_is_said(ingested, tmp_path, content, kind):
    (tmp_path / "given.jsonl").write_bytes(content + bytes(30))

    with pytest.raises(LvmError, match=f"given.jsonl is a file of {kind}"):
        ingested(tmp_path / "given.jsonl")


def test_only_rows_that_were_skipped_are_reported_as_skipped(load):
    given = rows(lengths=(4, 3), concept_text=["a", None, "c", "d", "e", "f", "g"])

    report = load(given.filter(pa.array([True] * 4 + [True, False, True])), skip_bad=True)

    assert [str(bad) for bad in report.bad_rows] == ["row 2: concept_text is missing"]
    assert [str(gap) for gap in report.gaps] == ["row 6: position 2 of article a1 where 1 was expected"]
    assert report.num_inserted == 5
    assert "1 bad row was skipped, 1 gap between positions was closed" in report.sentence()


def test_a_file_without_a_good_row_is_named_as_it_was_given(load):
    with pytest.raises(LvmError, match=r"^given.parquet has no row that can be loaded \(row 1: concept_text is empty"):
        load(rows(lengths=(1,), concept_text=[""]), skip_bad=True)


@pytest.mark.parametrize(("value", "words"), [({"a": 1}, "not a text but dict"), (True, "not a text but bool")])
def test_an_article_id_is_text_or_a_number(load, value, words):
    with pytest.raises(BadInputError, match=f"article_id is {words}"):
        load([{"title": "t", "text": "words", "article_id": value}])


def test_positions_that_are_text_are_numbers(tmp_path):
    table = rows(lengths=(5,), position=["0", "1", "10", "11", "2"])
    pq.write_table(table, tmp_path / "given.parquet")

    with pytest.raises(LvmError, match="is not in reading order: position 2 of article a0 comes after 11"):
        list(read_file(tmp_path / "given.parquet"))
