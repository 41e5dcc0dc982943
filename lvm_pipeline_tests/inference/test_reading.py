"""Every form that a concept is given in is read as it is meant, and what is none is message by its line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.inference.reading import read_file, read_lines
from lvm_pipeline_tests.synthetic import synthetic_table, write_table


def one(line):
    (concept,) = read_lines([line.encode()])
    return concept


def test_every_form_of_a_line():
    vector = one('{"article_id": "a", "vector": [1, 0.5], "anything": 3}')
    assert (vector.article_id, vector.text, vector.vector.dtype) == ("a", None, np.float32)
    assert vector.vector.tolist() == [1.0, 0.5]
    assert one("[1, 0.5]").vector.tolist() == [1.0, 0.5]
    assert one('{"article_id": 7, "text": " A thing. "}').text == "A thing."
    assert one('{"text": "read past", "vector": [1]}').text is None
    assert one('{"space_id": "gtr", "vector": [1]}').space_id == "gtr"
    assert one("A plain text, 1.\n").text == "A plain text, 1."
    assert one("\ufeffWith a mark").text == "With a mark"


def test_empty_lines_are_passed_over_and_counted():
    assert [concept.location for concept in read_lines([b"\n", b"one\n", b"  \n", b"two\n"])] == ["line 2", "line 4"]


def test_a_line_is_read_when_it_is_there():
    given = []

    def lines():
        for text in (b"one\n", b"two\n"):
            given.append(text)
            yield text

    concepts = read_lines(lines())
    assert (next(concepts).text, len(given)) == ("one", 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"vector": [1, 2', "line 1 starts like JSON but is not JSON"),
        ("[see above] it goes on", 'as {"text": ...}'),
        ("{}", "neither a vector nor a text"),
        ('{"text": "  "}', "neither a vector nor a text"),
        ('{"text": 3}', "text must be a text, got 3"),
        ('{"vector": "0.1 0.2"}', "vector must be a list of numbers"),
        ('{"vector": [1, "2"]}', "vector must be a list of numbers"),
        ('{"vector": [[1, 2]]}', "vector must be a list of numbers"),
        ('{"vector": [1, null]}', "vector must be a list of numbers"),
        ('{"article_id": [1], "vector": [1]}', "article_id must be a text or a whole number, got [1]"),
        ('{"article_id": 1.5, "vector": [1]}', "article_id must be a text or a whole number, got 1.5"),
        ('{"article_id": true, "vector": [1]}', "article_id must be a text or a whole number, got True"),
        ('{"text": 7}', "text must be a text, got 7"),
        ('{"text": "A \\ud800 thing."}', "line 1: text contains half of a surrogate pair"),
        ('{"article_id": "\\ud800", "vector": [1]}', "line 1: article_id contains half of a surrogate pair"),
        ("[" * 20_000, "line 1 starts like JSON"),
    ],
)
def test_a_line_that_is_no_concept_is_reported(line, message):
    with pytest.raises(LvmError) as refused:
        one(line)
    assert message in str(refused.value)


def test_bytes_that_are_no_text_are_reported():
    with pytest.raises(LvmError, match="line 2 is not UTF-8"):
        list(read_lines([b"one\n", b"\xff\xfe\n"]))


def test_a_concept_table_is_read_with_its_space(tmp_path):
    table = synthetic_table([3, 2])
    concepts = list(read_file(write_table(table, tmp_path / "concepts.parquet", space_id="here")))

    assert [concept.article_id for concept in concepts] == table["article_id"].to_pylist()
    assert {concept.space_id for concept in concepts} == {"here"}
    expected = np.stack(table["vector"].to_numpy())
    np.testing.assert_array_equal(np.stack([concept.vector for concept in concepts]), expected)


def test_a_parquet_of_texts_is_read_without_vectors(tmp_path):
    pq.write_table(pa.table({"concept_text": ["one", "two"]}), tmp_path / "texts.parquet")

    assert [(c.text, c.article_id) for c in read_file(tmp_path / "texts.parquet")] == [("one", None), ("two", None)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"other": [1]}, "neither a column vector nor concept_text"),
        (
            {"article_id": ["a", "a"], "position": [1, 0], "vector": [[1.0], [2.0]]},
            "position 0 of article a comes after 1",
        ),
        (
            {"article_id": ["a", "b", "a"], "position": [0, 0, 1], "concept_text": ["one", "two", "three"]},
            "article a goes on after another one; sort it",
        ),
        ({"vector": [[1.0], None]}, "row 2 has no vector; give it one"),
        ({"vector": [[1.0], None], "concept_text": ["one", "two"]}, "row 2 has no vector; give it one"),
        ({"concept_text": ["one", " "]}, "row 2 has no text; give it one"),
    ],
)
def test_a_parquet_file_without_an_order_is_an_error(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "given.parquet")

    with pytest.raises(LvmError) as refused:
        list(read_file(tmp_path / "given.parquet"))
    assert message in str(refused.value)


def test_a_missing_or_damaged_file_is_reported(tmp_path):
    with pytest.raises(LvmError, match=r"There is no file .*nowhere.jsonl"):
        list(read_file(tmp_path / "nowhere.jsonl"))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(LvmError, match="cannot be read as Parquet"):
        list(read_file(tmp_path / "damaged.parquet"))


def test_a_file_of_lines_is_read(tmp_path):
    path = tmp_path / "concepts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("one", "two")))

    assert [concept.text for concept in read_file(path)] == ["one", "two"]
