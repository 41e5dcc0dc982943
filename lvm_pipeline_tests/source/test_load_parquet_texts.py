"""Parquet without vectors: rows are concepts or articles, which are encoded as those of JSON lines are."""

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.records import BadInputError
from lvm_pipeline_tests.source.given_files import article, articles, rows

SENTENCE = "This is a sentence about the {} with exactly thirteen words in it."


def concept_rows(given):
    """The rows of some articles, one a concept."""
    return pa.table({
        "article_id": [each["title"] for each in given for _ in each["concepts"]],
        "position": [position for each in given for position in range(len(each["concepts"]))],
        "concept_text": [text for each in given for text in each["concepts"]],
    })  # fmt: skip


def vectors_of(table):
    return {row["text"]: row["vector"] for row in table.rows.values()}


def test_concepts_without_vectors_are_encoded_as_those_of_json_lines(load, table):
    given = [{**each, "article_id": each["title"]} for each in articles()]
    report = load(concept_rows(given))
    assert report.space_id.startswith("lsa-768@")
    assert table.articles() == {each["title"]: each["concepts"] for each in given}
    found = vectors_of(table)
    table.rows.clear()
    load(given)
    expected = vectors_of(table)
    assert found.keys() == expected.keys()
    for text, vector in expected.items():
        np.testing.assert_array_equal(found[text], vector)


def test_articles_are_cut_and_named_as_those_of_json_lines(load, table):
    text = " ".join(SENTENCE.format(thing) for thing in ("sun", "moon", "sea", "sky", "land", "rain"))
    given = [*articles(), {"title": "Nature", "text": text}]
    columns = {name: [each.get(name) for each in given] for name in ("title", "text", "concepts")}
    load(pa.table({"id": list(range(len(given))), **columns}))
    found = dict(table.rows)
    assert len(table.articles()["Nature"]) == 2
    table.rows.clear()
    load(given)
    assert found.keys() == table.rows.keys()


def test_a_text_in_a_list_that_is_not_utf8_is_named_and_can_be_skipped(load, table):
    given = articles()
    concepts = [[text.encode() for text in each["concepts"]] for each in given]
    concepts[3] = None
    concepts[7][2] = b"caf\xe9"
    lists = pa.array(concepts, pa.list_(pa.binary()))
    texts = pa.ListArray.from_arrays(lists.offsets, lists.values.view(pa.string()), mask=lists.is_null())
    columns = pa.table({"title": [each["title"] for each in given], "concepts": texts})

    with pytest.raises(BadInputError, match=r"\(row 4: neither text nor concepts; row 8: concept 2 is not UTF-8"):
        load(columns)
    load(columns, skip_bad=True)

    kept = [each for number, each in enumerate(given) if number not in (3, 7)]
    assert table.articles() == {each["title"]: each["concepts"] for each in kept}


def test_loading_them_again_changes_nothing(load, table):
    load(concept_rows(articles()))
    before = dict(table.rows)
    assert load(concept_rows(articles())).num_inserted == 0
    assert table.rows == before


def test_own_article_ids_are_kept_and_may_not_repeat(load, table):
    given = articles(12)
    ids = [f"page {number}" for number in range(12)]
    columns = {"title": [each["title"] for each in given], "concepts": [each["concepts"] for each in given]}
    load(pa.table({**columns, "article_id": ids}))
    assert {row["article_id"] for row in table.rows.values()} == set(ids)
    with pytest.raises(BadInputError, match="row 2: article_id page 0 is already that of row 1"):
        load(pa.table({**columns, "article_id": ["page 0", *ids[:11]]}))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"title": ["A", None], "text": ["One.", "Two."]}, "row 2: title is missing"),
        ({"title": ["A", "B"], "text": ["One.", None]}, "row 2: neither text nor concepts"),
        ({"title": ["A", "B"], "text": ["One.", "Two."], "concepts": [None, ["x"]]}, "row 2: both text and concepts"),
        ({"title": ["A", "B"], "concepts": [["x"], []]}, "row 2: concepts is not a list of texts"),
        ({"title": [1, 2], "text": ["One.", "Two."]}, "rows 1, 2: title is not a text but int"),
        ({"title": ["A", "B"], "concepts": [["x"], ["y", " "]]}, "row 2: concept 1 is empty"),
    ],
)
def test_a_bad_article_is_named_by_its_row(load, table, columns, reason):
    with pytest.raises(BadInputError, match=reason):
        load(pa.table(columns))
    assert not table.rows


def test_a_bad_concept_without_vector_is_named_by_its_row(load):
    with pytest.raises(BadInputError, match="row 2: concept_text is empty"):
        load(rows(concept_text=["one", " ", "three", "four", "five"], vector=None))
    with pytest.raises(BadInputError, match=r"row 2: position 3 of article a0 where 1 was expected.*--skip-bad"):
        load(rows(position=[0, 3, 4, 0, 1], vector=None))


def test_columns_of_neither_kind_are_refused_with_what_is_needed(load):
    with pytest.raises(LvmError) as error:
        load(pa.table({"heading": ["A"], "body": ["One."]}))
    assert "has the columns heading, body." in str(error.value)
    assert "article_id, position, concept_text (and vector" in str(error.value)
    assert "title, and text or concepts" in str(error.value)


def test_vectors_under_another_name_are_not_encoded_anew(load):
    given = rows()
    with pytest.raises(LvmError, match=r"no column vector, but embedding with lists of numbers; rename the one"):
        load(given.rename_columns(["embedding" if name == "vector" else name for name in given.schema.names]))


def test_a_title_that_repeats_is_another_article(load, table):
    given = [*articles(11), article("twin"), article("twin", concepts=["Another thing is said here."])]
    load(pa.table({"title": [each["title"] for each in given], "concepts": [each["concepts"] for each in given]}))
    assert len({row["article_id"] for row in table.rows.values()}) == 13
