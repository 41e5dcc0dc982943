"""Articles in JSONL become rows, all of a file or none; copies are dropped and spaces never mixed."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.encoder import unit_length
from lvm_pipeline.source.encoders.registry import encoder_of_space
from lvm_pipeline.source.load import ingest
from lvm_pipeline.source.records import BadInputError
from lvm_pipeline.source.split_hash import split_of
from lvm_pipeline_tests.source.given_files import DIM, article, articles, rows


def test_articles_are_loaded_in_order_with_vectors_of_unit_length(load, table):
    given = articles()
    report = load(given)

    assert table.articles() == {record["title"]: record["concepts"] for record in given}
    assert report.num_inserted == 72
    assert report.num_articles == 12
    vectors = np.stack([row["vector"] for row in table.rows.values()])
    assert vectors.shape == (72, 768)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert {row["space_id"] for row in table.rows.values()} == {report.space_id}
    assert report.space_id.startswith("lsa-768@")
    assert report.sentence().startswith("Loaded 72 new concepts of 12 articles from given.jsonl")


def test_text_is_cut_into_concepts(load, table):
    sentence = "This is a sentence about the {} with exactly thirteen words in it."
    text = " ".join(sentence.format(thing) for thing in ("sun", "moon", "sea", "sky", "land", "rain"))
    load([*articles(), {"title": "Nature", "text": text}])
    concepts = table.articles()["Nature"]
    assert " ".join(concepts) == text
    assert [len(concept.split()) for concept in concepts] == [39, 39]


def test_loading_a_file_again_changes_nothing(load, table):
    first = load([*articles(), article("more", concepts=["Same words here.", "Same words here.", "Others."])])
    before = dict(table.rows)
    second = load([*articles(), article("more", concepts=["Same words here.", "Same words here.", "Others."])])

    assert table.rows == before
    assert table.num_writes == 1
    assert second.num_inserted == 0
    assert second.num_known == first.num_inserted
    assert second.space_id == first.space_id
    assert "were already there" in second.sentence()


def test_the_encoder_learns_from_train_articles_only(load, settings, monkeypatch):
    seen = []
    from lvm_pipeline.source.encoders import lsa

    fit = lsa.fit_lsa
    monkeypatch.setattr(lsa, "fit_lsa", lambda texts: seen.append(texts) or fit(texts))
    given = [article(f"article {i}", article_id=f"id{i}") for i in range(40)]
    load(given)

    hashed = {
        r["article_id"]: split_of(r["article_id"], seed=0, train_fraction=0.8, validation_fraction=0.1) for r in given
    }
    assert set(hashed.values()) == {"train", "validation", "test"}
    assert seen[0] == [text for r in given if hashed[r["article_id"]] == "train" for text in r["concepts"]]


@pytest.mark.parametrize(
    "content",
    [
        b"id0\nid1\n",
        b"\xef\xbb\xbfid0\r\n\r\nid1",
        b"# held out\n  id1 \nid0\nid0\n",
        b"\xef\xbb\xbf# held out\nid0\nid1\n",
    ],
    ids=["plain", "byte order mark", "comment and repeat", "comment after a byte order mark"],
)
def test_named_validation_articles_are_not_learnt_from(content, load, settings, tmp_path, table):
    (tmp_path / "validation.txt").write_bytes(content)
    settings = settings.model_copy(update={"validation_articles": tmp_path / "validation.txt"})
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(article(f"name{i}", article_id=f"id{i}")) + "\n" for i in range(5)))
    report = ingest(path, table, settings=settings)
    encoder = encoder_of_space(report.space_id, encoders_dir=settings.encoders_dir)
    assert encoder is not None
    assert {"name2", "name3", "name4"} <= set(encoder.vocabulary)
    assert not {"name0", "name1"} & set(encoder.vocabulary)


def test_a_later_file_uses_the_encoder_of_the_table(load, table):
    first = load(articles())
    second = load([article("quite another")])
    assert second.space_id == first.space_id
    assert second.num_inserted == 6
    assert len(table.articles()) == 13
    assert len({row["article_index"] for row in table.rows.values()}) == 13


def test_a_lost_encoder_is_reported(load, settings):
    load(articles())
    for folder in settings.encoders_dir.iterdir():
        folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(LvmError, match="no fitted encoder"):
        load([article("another")])


@pytest.mark.parametrize("other", ["Other", "Twin/1"])
def test_articles_of_the_same_title_are_apart_also_from_one_that_is_called_like_the_second(load, table, other):
    load(
        [
            *articles(),
            {"title": other, "concepts": ["Neither of them."]},
            {"title": "Twin", "concepts": ["First of twins."]},
            {"title": "Twin", "concepts": ["Second one."]},
        ]
    )
    twins = [row for row in table.rows.values() if row["title"] in ("Twin", other)]
    assert len({row["article_id"] for row in twins}) == 3
    assert [row["position"] for row in twins] == [0, 0, 0]


@pytest.mark.parametrize("bad", [{"concepts": [""]}, {"text": "\0"}, {}])
def test_a_bad_row_that_is_corrected_later_changes_no_other_article_id(load, table, bad):
    second = {"title": "Twin", "concepts": ["Second one."]}
    load([*articles(), {"title": "Twin", **bad}, second], skip_bad=True)
    load([*articles(), {"title": "Twin", "concepts": ["First of twins."]}, second])
    twins = [row for row in table.rows.values() if row["title"] == "Twin"]
    assert {row["text"] for row in twins} == {"First of twins.", "Second one."}
    assert len({row["article_id"] for row in twins}) == 2


def test_an_id_that_repeats_in_an_array_is_that_of_an_article(load):
    with pytest.raises(BadInputError, match="article 13: article_id a is already that of article 1"):
        load([json.dumps([article("a", article_id="a"), *articles(11), article("b", article_id="a")]).encode()])


BAD_LINES = [
    (b"{not json", "not JSON"),
    (b'{"title": "x", "text": "\xff"}', "not UTF-8"),
    (b'{"title": "x"', "at column 14"),
    (b"[1, 2]", "not a JSON object"),
    (b"[" * 100_000, "nested too deeply"),
    ({"text": "words"}, "title is missing"),
    ({"title": "  ", "text": "words"}, "title is empty"),
    ({"title": 5, "text": "words"}, "title is not a text but int"),
    ({"title": "x"}, "neither text nor concepts"),
    ({"title": "x", "text": "words", "concepts": ["words"]}, "both text and concepts"),
    ({"title": "x", "text": " \n "}, "text is empty"),
    ({"title": "x", "text": "a\0b"}, "NUL"),
    (b'{"title": "x", "text": "\\ud800"}', "surrogate"),
    ({"title": "x", "concepts": []}, "concepts is not a list"),
    ({"title": "x", "concepts": "words"}, "concepts is not a list"),
    ({"title": "x", "concepts": ["words", ""]}, "concept 1 is empty"),
    ({"title": "x", "concepts": ["words", None]}, "concept 1 is missing"),
    ({"title": "x", "concepts": ["words"], "article_id": ""}, "article_id is empty"),
    ({"title": "x", "concepts": ["words"], "article_id": "first"}, "article_id first is already that of line 1"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_a_bad_line_is_named_and_nothing_is_loaded(load, table, settings, line, reason):
    with pytest.raises(BadInputError, match="line 3: ") as caught:
        load([article("first", article_id="first"), b"", line, *articles()])
    assert reason in str(caught.value)
    assert [bad.number for bad in caught.value.bad_rows] == [3]
    assert not table.rows
    assert not settings.encoders_dir.exists()


def test_a_null_field_counts_as_absent(load, table):
    load(
        [{"title": "x", "text": None, "concepts": ["One.", "Two."]}, {"title": "y", "text": "Three.", "concepts": None}]
    )

    assert table.articles() == {"x": ["One.", "Two."], "y": ["Three."]}


def test_skip_bad_loads_the_rest_and_reports(load, table):
    report = load([*articles(), b"{", {"title": "x"}], skip_bad=True)
    assert len(table.articles()) == 12
    assert [str(bad) for bad in report.bad_rows][1] == "line 14: neither text nor concepts"
    assert asdict(report)["bad_rows"][0]["number"] == 13
    assert "2 bad lines were skipped" in report.sentence()


def test_the_report_says_line_of_one_and_lines_of_several(load):
    assert "1 bad line was skipped." in load([*articles(), b"{"], skip_bad=True).sentence().lower()


def test_a_line_without_a_title_shows_the_keys_that_it_has(load):
    with pytest.raises(BadInputError, match=r"line 1: title is missing \(the keys are 'name', 'body'\)"):
        load([{"name": "x", "body": "words"}])


def test_many_bad_lines_are_counted_and_some_shown(load):
    with pytest.raises(BadInputError, match=r"has 30 bad lines.*\(lines 1, 2, .*, 10 and 20 more: not JSON"):
        load([b"{"] * 30)


def test_a_byte_order_mark_is_no_fault(load, table):
    first, *rest = articles()
    load([b"\xef\xbb\xbf" + json.dumps(first).encode(), *rest])
    assert len(table.articles()) == 12


@pytest.mark.parametrize("lines", [[], [b"", b"  "]])
def test_an_empty_file_is_reported(load, lines):
    with pytest.raises(LvmError, match="has no articles"):
        load(lines)


def test_a_file_without_a_good_row_is_reported(load):
    with pytest.raises(LvmError, match="no row that can be loaded"):
        load([b"{"], skip_bad=True)


def test_a_missing_file_is_reported(table, settings, tmp_path):
    with pytest.raises(LvmError, match="no file"):
        ingest(tmp_path / "none.jsonl", table, settings=settings)


def test_no_train_article_is_an_error(load, table):
    lonely = next(
        f"id{i}"
        for i in range(100)
        if split_of(f"id{i}", seed=0, train_fraction=0.8, validation_fraction=0.1) != "train"
    )
    with pytest.raises(LvmError, match="train split"):
        load([article("only", article_id=lonely)])


class Failing:
    space_id, vector_dim = "failing", 4

    def __init__(self, value):
        self._value = value

    def encode(self, texts, *, progress=None):
        vectors = np.eye(len(texts), self.vector_dim, dtype=np.float32)
        vectors[1] = self._value
        return vectors


@pytest.mark.parametrize("value", [0, float("nan"), float("inf")])
def test_vectors_of_an_encoder_that_failed_are_refused(load, table, value):
    with pytest.raises(LvmError, match="encoder of failing made for 1 text are zero, NaN or infinite"):
        load([article("only", 3)], encoder=Failing(value))

    assert not table.rows


def test_fractions_of_more_than_all_articles_are_refused(tmp_path, table):
    (tmp_path / "given.jsonl").write_text(json.dumps(article("only")))
    settings = Settings(home=tmp_path / "home", train_fraction=0.9, validation_fraction=0.2)

    with pytest.raises(LvmError, match=r"0\.9 and 0\.2 add up to more than 1; lower LVM_TRAIN_FRACTION"):
        ingest(tmp_path / "given.jsonl", table, settings=settings)


def test_a_changed_article_is_refused(load, table):
    load(articles())
    changed = article("article a")
    changed["concepts"][2] = "Something else is said here."
    with pytest.raises(
        BadInputError, match=r"line 1: concept 2 of article 'article a' is in the table with another text"
    ):
        load([changed])


def test_duplicates_are_dropped_listed_and_closed_up(load, table):
    given = [
        *articles(),
        article("last", concepts=["Own words.", "article a says thing 0 of article a.", "Own again."]),
    ]
    report = load(given)

    assert table.articles()["last"] == ["Own words.", "Own again."]
    (duplicate,) = report.duplicates
    assert duplicate.number == 13
    assert duplicate.reason == "same text"
    assert table.rows[duplicate.kept_cpe_id]["text"] == "article a says thing 0 of article a."
    assert duplicate.cpe_id not in table.rows
    assert str(duplicate) == f"entry 13 of the file, {duplicate.cpe_id}: same text as {duplicate.kept_cpe_id}"


def test_duplicates_of_rows_in_the_table_are_dropped(load, table):
    load(articles())
    report = load([article("last", concepts=["Own words.", "article a says thing 0 of article a."])])
    assert table.articles()["last"] == ["Own words."]
    assert report.duplicates[0].kept_cpe_id in table.rows


def test_equal_vectors_are_duplicates(load, table):
    vectors = rows()["vector"].to_pylist()
    report = load(rows(vector=pa.array([vectors[0], vectors[1], vectors[0], *vectors[3:]], pa.list_(pa.float32()))))
    assert table.articles()["a0"] == ["text 0", "text 1"]
    assert [(d.number, d.reason) for d in report.duplicates] == [(3, "same vector")]


def test_a_duplicate_is_one_of_a_concept_that_was_kept(load, table):
    vectors, texts = rows((5,))["vector"].to_pylist(), ["x", "a", "a", "b", "c"]
    # the second row repeats the first one's vector and is left out, so the third one's text is new
    vectors = pa.array([vectors[0], vectors[0], *vectors[2:]], pa.list_(pa.float32()))
    report = load(rows((5,), concept_text=texts, vector=vectors))
    assert table.articles()["a0"] == ["x", "a", "b", "c"]
    assert [(each.number, each.reason) for each in report.duplicates] == [(2, "same vector")]
    assert load(rows((5,), concept_text=texts, vector=vectors)).num_inserted == 0


def test_texts_repeated_after_one_of_the_same_vector_are_duplicates_of_the_kept_one(load, table):
    class OfFirstLetters:
        space_id = "letters"
        vector_dim = 2

        def encode(self, texts, *, progress=None):
            return unit_length(np.array([[ord(text[0]), 1.0] for text in texts]))

    report = load([article("a", concepts=["xa", "xb", "xb", "y"])], encoder=OfFirstLetters())
    assert table.articles()["a"] == ["xa", "y"]
    assert {each.kept_cpe_id for each in report.duplicates} <= set(table.rows)
    assert [each.reason for each in report.duplicates] == ["same vector"] * 2


def test_texts_of_the_same_words_are_no_duplicates(load, table):
    report = load([*articles(), article("last", concepts=["Word order zebra.", "Zebra, order word!", "?", "!"])])
    assert len(table.articles()["last"]) == 4
    assert not report.duplicates


def test_duplicates_can_be_an_error(load, table):
    with pytest.raises(LvmError, match=r"repeats 1 concept .*entry 2 of the file, .*: same text"):
        load([*articles(1), article("b", concepts=["article a says thing 0 of article a."])], duplicates="fail")
    assert not table.rows


def test_spaces_are_never_mixed(load, table):
    load(rows(), space_id="mine")
    other = rows(concept_text=[f"other {i}" for i in range(5)], article_id=["b"] * 3 + ["c"] * 2)
    with pytest.raises(LvmError, match=r"already has 5 vectors of the space mine.*cannot be mixed"):
        load(other, space_id="theirs")
    with pytest.raises(LvmError, match="space mine under this dataset source"):
        load(articles())
    assert len(table.rows) == 5

    load(other, space_id="theirs", dataset_source="elsewhere")
    assert len(table.rows) == 10


def test_another_vector_under_the_same_id_is_refused(load, table):
    load(rows())
    turned = rows()["vector"].to_pylist()[::-1]
    with pytest.raises(BadInputError, match="in the table with another vector"):
        load(rows(vector=pa.array(turned, pa.list_(pa.float32()))))


def test_the_space_of_jsonl_is_its_encoders(load):
    with pytest.raises(LvmError, match="omit --space"):
        load(articles(), space_id="mine")


def test_a_custom_encoder_can_be_used(load, table):
    class Counting:
        space_id = "counting"
        vector_dim = 4

        def encode(self, texts, *, progress=None):
            return unit_length(np.random.default_rng(len(texts)).standard_normal((len(texts), 4)))

    assert load(articles(), encoder=Counting()).space_id == "counting"
    assert next(iter(table.rows.values()))["vector"].shape == (4,)


def test_an_article_that_lies_in_another_order_is_refused(load, table):
    load(rows((3,)))
    for row in table.rows.values():
        row["position"] = 2 - row["position"]
    longer = rows((4,))
    with pytest.raises(LvmError, match="in another order"):
        load(longer.set_column(3, "vector", pa.chunked_array([rows((4,))["vector"].combine_chunks()])))


def test_an_article_may_grow(load, table):
    vectors = unit_length(np.random.default_rng(3).standard_normal((5, DIM))).tolist()
    load(rows((3,), vector=pa.array(vectors[:3], pa.list_(pa.float32()))))
    report = load(rows((5,), vector=pa.array(vectors, pa.list_(pa.float32()))))
    assert report.num_inserted == 2
    assert table.articles() == {"a0": [f"text {i}" for i in range(5)]}


def test_a_dataset_source_has_a_name(load):
    with pytest.raises(LvmError, match="dataset source is empty"):
        load(rows(), dataset_source=" ")
