import pytest

from lvm_pipeline.concepts.ordering import AmbiguousArticle, ColumnKind, KeyFacts, OrderRequest, choose_order
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import Severity

KINDS = {
    "cpe_id": ColumnKind.OTHER,
    "document_id": ColumnKind.TEXT,
    "sequence_index": ColumnKind.INTEGER,
    "chunk_position": ColumnKind.JSON,
    "batch_id": ColumnKind.OTHER,
    "created_at": ColumnKind.TIME,
    "page": ColumnKind.TEXT,
    "line": ColumnKind.INTEGER,
}
GOOD = KeyFacts(num_rows=10, num_keyed=10, num_articles=2, num_from_zero=2)
UNKEYED = KeyFacts(num_rows=10, num_keyed=0, num_articles=0)
PARTLY_KEYED = KeyFacts(num_rows=10, num_keyed=7, num_articles=2)
TIED = KeyFacts(
    num_rows=10,
    num_keyed=10,
    num_articles=2,
    num_tied=1,
    tied=(AmbiguousArticle(article_id="page-7", num_rows=6, num_distinct=1),),
)
MIXED = KeyFacts(
    num_rows=10,
    num_keyed=10,
    num_articles=1,
    num_mixed=1,
    mixed=(AmbiguousArticle(article_id="request-1", num_rows=10, num_distinct=3),),
)


def choose(facts_by_rule, *, kinds=KINDS, **request):
    """Choose with the facts given for rules that start so; a rule without facts has no keyed row."""
    examined = []

    def examine(rule):
        examined.append(rule.name)
        return next((facts for start, facts in facts_by_rule.items() if rule.name.startswith(start)), UNKEYED)

    return choose_order(kinds, examine, request=OrderRequest(**request)), examined


@pytest.mark.parametrize(
    ("facts", "name", "num_examined"),
    [
        ({"document_id": GOOD, "chunk": GOOD, "batch": GOOD}, "document_id, sequence_index", 1),
        ({"chunk": GOOD, "batch": GOOD}, "chunk_position (article_index, chunk_index)", 2),
        ({"document_id": PARTLY_KEYED, "chunk": TIED, "batch": GOOD}, "batch_id, created_at", 3),
    ],
)
def test_first_rule_that_orders_every_row_is_taken(facts, name, num_examined):
    decision, examined = choose(facts)

    assert decision.rule.name == name
    assert len(examined) == num_examined, "later rules are not counted"
    assert decision.finding.passed
    assert decision.finding.details["order_key"] == name
    assert decision.warning is None


def test_refusal_names_ambiguous_articles_and_counts_and_what_to_do():
    decision, _ = choose({"document_id": PARTLY_KEYED, "batch": TIED})

    assert decision.rule is None
    assert not decision.finding.passed
    assert decision.finding.severity is Severity.BLOCKING
    assert decision.finding.observed == 1
    for words in ("3 of 10 rows have no document_id", "page-7 (6 rows, 1 distinct)", "LVM_ACCEPT_TABLE_ORDER"):
        assert words in f"{decision.finding.message} {decision.finding.remedy}"
    assert decision.finding.details["tried"][-1]["ambiguous_articles"] == [
        {"article_id": "page-7", "num_rows": 6, "num_distinct": 1}
    ]


def test_rows_without_a_batch_are_no_article():
    decision, _ = choose({"batch": PARTLY_KEYED})

    assert decision.rule is None
    assert "3 of 10 rows have no batch_id or created_at" in decision.finding.message


def test_request_page_of_several_articles_is_no_article():
    decision, _ = choose({"batch": MIXED})

    assert decision.rule is None
    assert "request-1 (10 rows, 3 values)" in decision.finding.message


def test_missing_columns_are_named():
    kinds = {"cpe_id": ColumnKind.OTHER, "batch_id": ColumnKind.OTHER, "chunk_position": ColumnKind.TEXT}

    decision, examined = choose({}, kinds=kinds)

    assert examined == []
    assert "the table has no document_id and no sequence_index" in decision.finding.message
    assert "the table has no created_at" in decision.finding.message


def test_named_columns_replace_every_rule():
    decision, examined = choose(
        {"document_id": GOOD, "page, line": GOOD}, article_column="page", position_column="line"
    )

    assert examined == ["page, line"]
    assert decision.rule.is_named


def test_named_columns_that_tie_are_refused_and_nothing_else_is_tried():
    decision, examined = choose(
        {"document_id": GOOD, "page, line": TIED}, article_column="page", position_column="line"
    )

    assert decision.rule is None
    assert examined == ["page, line"]
    assert "page-7" in decision.finding.message


@pytest.mark.parametrize(
    "request_",
    [
        {"article_column": "page"},
        {"position_column": "line"},
        {"article_column": "nothing", "position_column": "line"},
        {"article_column": "page", "position_column": "chunk_position"},
    ],
)
def test_half_or_unknown_names_are_refused_in_one_sentence(request_):
    with pytest.raises(LvmError, match=r"LVM_(ARTICLE|POSITION)_COLUMN"):
        choose({"page": GOOD}, **request_)


@pytest.mark.parametrize(("num_from_zero", "num_from_one", "is_counted"), [(2, 0, True), (0, 2, True), (1, 0, False)])
def test_named_numbers_count_only_where_most_articles_start_with_them(num_from_zero, num_from_one, is_counted):
    facts = KeyFacts(num_rows=9, num_keyed=9, num_articles=3, num_from_zero=num_from_zero, num_from_one=num_from_one)

    decision, _ = choose({"page, line": facts}, article_column="page", position_column="line")

    assert decision.rule.is_counted is is_counted


@pytest.mark.parametrize(("num_from_zero", "num_from_one", "first"), [(3, 0, 0), (0, 2, 1), (1, 2, 0), (0, 0, 0)])
def test_first_position_is_that_of_the_table(num_from_zero, num_from_one, first):
    facts = KeyFacts(num_rows=9, num_keyed=9, num_articles=3, num_from_zero=num_from_zero, num_from_one=num_from_one)

    decision, _ = choose({"document_id": facts})

    assert decision.rule.first_position == first
    assert decision.rule.is_counted


def test_accepted_order_warns_everywhere_and_keeps_what_is_known():
    decision, _ = choose({"batch_id, created_at": TIED}, accept_table_order=True)

    assert decision.rule.name == "batch_id, created_at, order of the table"
    assert decision.rule.accepts_table_order
    assert not decision.rule.is_counted
    assert "accepted, not verified" in decision.warning
    assert not decision.finding.passed
    assert decision.finding.severity is Severity.WARNING


def test_accepting_the_order_changes_nothing_where_it_is_known():
    decision, _ = choose({"document_id": GOOD}, accept_table_order=True)

    assert decision.rule.name == "document_id, sequence_index"
    assert decision.warning is None


def test_order_of_the_table_is_not_enough_without_articles():
    decision, _ = choose({"batch_id": MIXED}, accept_table_order=True)

    assert decision.rule is None


def test_named_article_with_the_order_of_the_table():
    decision, _ = choose({"page, order": GOOD}, article_column="page", accept_table_order=True)

    assert decision.rule.name == "page, order of the table"
    assert decision.rule.position is None
