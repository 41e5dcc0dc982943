"""Rows with vectors in Parquet become rows of the table, all of a file or none."""

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.source.load import ingest
from lvm_pipeline.source.records import BadInputError
from lvm_pipeline_tests.source.given_files import DIM, articles, rows
from lvm_pipeline_tests.source.memory_table import MemoryTable

VECTOR_TYPES = [
    make(number)
    for number in (pa.float16(), pa.float32(), pa.float64())
    for make in (pa.list_, pa.large_list, lambda number: pa.list_(number, DIM))
]


@pytest.mark.parametrize("vector_type", VECTOR_TYPES, ids=str)
def test_every_kind_of_float_list_is_read(load, table, vector_type):
    report = load(rows(vector_type=vector_type))
    assert report.space_id == f"undeclared-{DIM}"
    expected = rows()["vector"].to_pylist()
    found = {row["text"]: row["vector"] for row in table.rows.values()}
    for number, vector in enumerate(expected):
        np.testing.assert_allclose(found[f"text {number}"], vector, atol=1e-3 if "half" in str(vector_type) else 1e-7)


def test_rows_in_any_order_are_sorted(load, table):
    shuffled = rows((4, 3)).take([5, 2, 0, 6, 3, 1, 4])
    load(shuffled)
    assert table.articles() == {"a0": [f"text {i}" for i in range(4)], "a1": [f"text {i}" for i in range(4, 7)]}


def test_vectors_stay_with_their_texts_over_many_batches(load, table):
    num = 5_000
    vectors = unit_length(np.random.default_rng(0).standard_normal((num, DIM)))
    texts = [f"text {row % 4_900}" for row in range(num)]  # the last hundred are duplicates
    load(rows((num,), concept_text=texts, vector=pa.array(vectors.tolist(), pa.list_(pa.float32()))))
    assert len(table.rows) == 4_900
    for row in table.rows.values():
        np.testing.assert_array_equal(row["vector"], vectors[int(row["text"].split()[1])])


def test_given_ids_titles_and_space_are_kept(load, table):
    ids = [f"00000000-0000-4000-8000-{i:012d}" for i in range(5)]
    titles = ["One"] * 3 + [None] * 2
    report = load(rows(cpe_id=ids, article_title=titles).replace_schema_metadata({"space_id": "own-space"}))
    assert set(table.rows) == set(ids)
    assert set(table.articles()) == {"One", "a1"}
    assert report.space_id == "own-space"


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"space_id": b"\xff"}, r"cannot be read \(expected UTF-8 text or JSON\); correct it"),
        ({"lvm": b"{"}, "names a vector space that cannot be read"),
        ({"lvm": b'{"space_id": 3}'}, "The space_id in the metadata of given.parquet is not text; correct it"),
    ],
)
def test_a_space_that_cannot_be_read_is_named(load, metadata, sentence):
    with pytest.raises(LvmError, match=sentence):
        load(rows().replace_schema_metadata(metadata))


def test_a_named_space_wins(load):
    assert load(rows(), space_id="mine").space_id == "mine"


def test_vectors_beside_those_of_no_declared_space_can_be_loaded_without_a_space_too(load):
    load(rows())
    with pytest.raises(LvmError, match=r"of the space undeclared-8 .*or if .* omit --space and set LVM_SPACE_ID=mine"):
        load(rows((4,), article_id=["b"] * 4), space_id="mine")


def test_another_space_is_refused_before_anything_is_encoded(load, settings):
    class Unused:
        space_id, vector_dim = "theirs", DIM

        def encode(self, texts, *, progress=None):
            raise AssertionError("encoded")

    load(rows(), space_id="mine")
    with pytest.raises(LvmError, match="already has 5 vectors of the space mine"):
        load(articles(), encoder=Unused())
    assert not settings.encoders_dir.exists()


def test_a_second_parquet_run_changes_nothing(load, table):
    load(rows(concept_text=["same", "same", "other", "more", "most"]))
    before = dict(table.rows)
    report = load(rows(concept_text=["same", "same", "other", "more", "most"]))
    assert report.num_inserted == 0
    assert report.num_known == 4
    assert table.rows == before


def with_value(column, row, value):
    values = rows()[column].to_pylist()
    values[row] = value
    return rows(**{column: pa.array(values, rows().schema.field(column).type)})


BAD_ROWS = [
    ("vector", None, "vector is missing"),
    ("vector", [], "vector is empty"),
    ("vector", [0.5] * (DIM + 1), f"vector has {DIM + 1} components where most have {DIM}"),
    ("vector", [float("nan")] + [0.5] * (DIM - 1), "NaN or missing component"),
    ("vector", [None] + [0.5] * (DIM - 1), "NaN or missing component"),
    ("vector", [float("-inf")] + [0.5] * (DIM - 1), "infinite component"),
    ("vector", [0.0] * DIM, "all zeros"),
    ("concept_text", None, "concept_text is missing"),
    ("concept_text", " ", "concept_text is empty"),
    ("concept_text", "a\0b", "NUL"),
    ("article_id", None, "article_id is missing"),
    ("article_id", "", "article_id is empty"),
    ("position", None, "position is missing"),
    ("position", -1, "below 0"),
    ("position", 1, "position 1 of article a0 is already that of row 2"),
    ("position", 7, "position 7 of article a0 where 2 was expected"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BAD_ROWS, ids=[f"{c} {r}" for c, _, r in BAD_ROWS])
def test_a_bad_row_is_named_and_nothing_is_loaded(load, table, column, value, reason):
    given = with_value(column, 2, value)
    with pytest.raises(BadInputError, match="row 3: ") as caught:
        load(given)
    assert reason in str(caught.value)
    assert len(caught.value.bad_rows) == 1
    assert not table.rows

    load(given, skip_bad=True)
    is_gap = value == 7
    assert table.articles() == {"a0": ["text 0", "text 1"] + ["text 2"] * is_gap, "a1": ["text 3", "text 4"]}


def test_a_double_beyond_float32_is_infinite(load):
    values = rows()["vector"].to_pylist()
    values[0][0] = 1e300
    with pytest.raises(BadInputError, match="row 1: vector has an infinite component"):
        load(rows(vector=pa.array(values, pa.list_(pa.float64()))))


@pytest.mark.parametrize(
    ("ids", "reason"), [(["x"] * 5, "'x' is not a UUID"), ([f"{0:032x}"] * 5, "is already that of row 1")]
)
def test_bad_cpe_ids_are_named(load, ids, reason):
    with pytest.raises(BadInputError, match=reason):
        load(rows(cpe_id=ids))


def test_a_gap_inside_an_article_is_found(load):
    with pytest.raises(BadInputError, match="row 3: position 3 of article a0 where 2 was expected"):
        load(rows(position=[0, 1, 3, 0, 1]))
    closing = (
        r"position 1 of article a0 where 0 was expected\)\. .*, or close the gaps between positions with --skip-bad"
    )
    with pytest.raises(BadInputError, match=closing):
        load(rows(position=[1, 2, 3, 0, 1]))


def test_positions_may_count_from_one_in_every_article(load, table):
    load(rows(position=[1, 2, 3, 1, 2]))

    assert table.articles() == {"a0": ["text 0", "text 1", "text 2"], "a1": ["text 3", "text 4"]}
    with pytest.raises(BadInputError, match="row 3: position 4 of article a0 where 3 was expected"):
        load(rows(position=[1, 2, 4, 1, 2]))


def test_the_report_says_duplicate_of_one(load):
    vectors = rows()["vector"].to_pylist()
    sentence = load(rows(vector=[*vectors[:4], vectors[0]])).sentence()
    assert "1 duplicate was skipped. Only the vector is that of another concept for 1 (entry 5 of the file" in sentence


def test_the_rare_width_is_the_wrong_one(load):
    values = rows()["vector"].to_pylist()
    values[0] = values[0][:-1]
    with pytest.raises(BadInputError, match=r"has 1 bad row.*row 1: vector has 7 components where most have 8"):
        load(rows(vector=values))


@pytest.mark.parametrize("column", ["article_id", "position", "concept_text"])
def test_a_missing_column_is_named(load, column):
    with pytest.raises(LvmError, match=rf"has no column {column} .*vector: rename or add them\.$"):
        load(rows(**{column: None}))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"vector": ["a"] * 5}, "expected a list of floats"),
        ({"vector": [[1, 2]] * 5}, "expected a list of floats"),
        ({"position": [True, False, True, True, False]}, "expected whole numbers"),
    ],
)
def test_a_column_of_another_type_is_named(load, columns, reason):
    with pytest.raises(LvmError, match=reason):
        load(rows(**columns))


def test_a_damaged_parquet_file_is_reported(load, table, settings, tmp_path):
    load(rows())
    path = tmp_path / "given.parquet"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:20] + b"x" * 200 + content[220:]):
        path.write_bytes(damaged)
        with pytest.raises(LvmError, match="cannot be read as Parquet"):
            ingest(path, MemoryTable(), settings=settings)


def test_whole_numbers_are_article_ids_too(load, table):
    load(rows(article_id=[7, 7, 7, 8, 8]))
    assert set(table.articles()) == {"7", "8"}
