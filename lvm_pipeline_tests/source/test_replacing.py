"""`lvm ingest --replace`: articles that have changed take the place of the earlier ones, and nothing else moves."""

import pytest

from lvm_pipeline.errors import LvmError
from lvm_pipeline.source.records import BadInputError
from lvm_pipeline_tests.source.given_files import article, articles, rows

EDITS = {
    "text": lambda concepts: ["A corrected text.", *concepts[1:]],
    "removed at the end": lambda concepts: concepts[:-1],
    "removed inside": lambda concepts: [*concepts[:2], *concepts[3:]],
    "added inside": lambda concepts: [*concepts[:2], "One more concept.", *concepts[2:]],
    "swapped": lambda concepts: [concepts[1], concepts[0], *concepts[2:]],
    "only one left": lambda concepts: concepts[:1],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_changed_article_is_replaced_where_it_stands(load, table, edit):
    given = articles()
    load(given)
    before = dict(table.rows)
    given[3]["concepts"] = edit(given[3]["concepts"])

    report = load([given[3]], replace_changed=True)

    assert (report.num_replaced, report.num_inserted) == (1, len(given[3]["concepts"]))
    assert "1 article was replaced" in report.sentence()
    assert list(table.articles().items()) == [(each["title"], each["concepts"]) for each in given]
    changed = {row["article_id"] for row in table.rows.values() if row["title"] == given[3]["title"]}
    others = {cpe_id: row for cpe_id, row in before.items() if row["article_id"] not in changed}
    assert others.items() <= table.rows.items()


def test_nothing_is_replaced_twice_or_where_nothing_changed(load, table):
    repeated = article("repeats", concepts=["First words.", "Second words.", "First words.", "Third words."])
    given = [*articles(), repeated]
    load(given)
    given[0]["concepts"].append("A new last concept.")

    first = load(given, replace_changed=True)
    before = dict(table.rows)
    again = load(given, replace_changed=True)

    assert (first.num_replaced, first.num_inserted) == (0, 1)
    assert (again.num_replaced, again.num_inserted) == (0, 0)
    assert table.rows == before


def test_without_the_option_the_message_names_it(load, table):
    given = articles()
    load(given)
    before = dict(table.rows)
    given[3]["concepts"][0] = "A corrected text."

    with pytest.raises(BadInputError, match="replace the article with --replace"):
        load(given)
    assert table.rows == before


def test_an_article_may_be_replaced_by_repetitions_of_others(load, table):
    given = articles()
    load(given)
    given[3]["concepts"] = given[5]["concepts"][:1]

    report = load([given[3]], replace_changed=True)

    assert (report.num_replaced, report.num_inserted, len(report.duplicates)) == (1, 0, 1)
    assert given[3]["title"] not in table.articles()


def test_a_part_of_an_article_never_replaces_it(load):
    with pytest.raises(LvmError, match="--replace and --skip-bad cannot be combined"):
        load(articles(), replace_changed=True, skip_bad=True)


def test_rows_with_other_ids_are_not_mixed_into_an_article_of_the_table(load, table):
    ids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(4)]
    load(rows((2,), cpe_id=ids[:2], concept_text=["alpha", "beta"]))
    before = dict(table.rows)
    vectors = rows((4,))["vector"].to_pylist()[2:]
    others = rows((2,), cpe_id=ids[2:], concept_text=["one", "two"], vector=vectors)

    with pytest.raises(LvmError, match=r"has 2 concepts of article 'a0' \(a0\) that this file lacks or changes"):
        load(others)
    assert table.rows == before

    load(others, replace_changed=True)
    assert table.articles() == {"a0": ["one", "two"]}


def test_the_end_of_an_article_alone_is_not_added_to_it(load, table):
    vectors = rows((4,))["vector"].to_pylist()
    load(rows((2,), vector=vectors[:2]))
    before = dict(table.rows)

    with pytest.raises(LvmError, match="has 2 concepts of article 'a0'"):
        load(rows((2,), position=[2, 3], concept_text=["c", "d"], vector=vectors[2:]), skip_bad=True)
    assert table.rows == before


def test_concepts_added_after_a_changed_one_do_not_take_its_position(load, table):
    given = articles()
    load(given)
    before = dict(table.rows)
    given[3]["concepts"] = [*given[3]["concepts"][:-1], "A corrected text.", "A new last concept."]

    with pytest.raises(LvmError, match="has 1 concept of article 'article d'"):
        load([given[3]], skip_bad=True)
    assert table.rows == before
