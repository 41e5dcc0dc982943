"""Choose the rule that orders the concepts of a source table, or fail and name the ambiguous articles.

Rules are judged by counts that the database computes. They are tried in this order: `document_id, sequence_index`;
article and chunk index in `chunk_position`; `batch_id, created_at`, if no article has two equal times (all rows of one
INSERT have the same) and every row has a batch. Columns named by the user replace all three.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import chain
from typing import Any

from lvm_pipeline.concepts.order_invariants import order_is_unambiguous
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import MAX_LISTED, Finding, Severity
from lvm_pipeline.words import counted


class ColumnKind(StrEnum):
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    JSON = "json"
    JSON_TEXT = "json text"  # text that may be JSON
    TIME = "time"
    OTHER = "other"


JSON_KINDS = (ColumnKind.JSON, ColumnKind.JSON_TEXT)


class KeyForm(StrEnum):
    """How a part of the key is read: as text, as a whole number (also from text), or unchanged."""

    TEXT = "text"
    NUMBER = "number"
    NATIVE = "native"


@dataclass(frozen=True, kw_only=True)
class KeyPart:
    """One half of an order key: a column, or an entry of a JSON column."""

    column: str
    json_key: str | None = None
    form: KeyForm = KeyForm.TEXT

    def __str__(self) -> str:
        return f"{self.column}.{self.json_key}" if self.json_key else self.column


@dataclass(frozen=True, kw_only=True)
class OrderRule:
    name: str
    article: KeyPart
    position: KeyPart | None  # without it, concepts keep the order of the table
    # positions count the concepts of an article, so that a gap is a missing concept; else they only rank
    is_counted: bool
    witnesses: tuple[KeyPart, ...] = ()  # columns that have one value per article if the article key is right
    first_position: int = 0
    is_named: bool = False  # whether the user named the columns
    accepts_table_order: bool = False  # the order of the table decides between equal positions


@dataclass(frozen=True, kw_only=True)
class AmbiguousArticle:
    """An article that a rule cannot order: its rows, and how many different positions (or witnesses) they have."""

    article_id: str
    num_rows: int
    num_distinct: int

    def described(self, what: str) -> str:
        return f"{self.article_id} ({counted(self.num_rows, 'row')}, {self.num_distinct} {what})"


@dataclass(frozen=True, kw_only=True)
class KeyFacts:
    """What the database counted for one rule on the selected rows.

    `num_keyed` rows have both parts of the key. `num_tied` articles hold different texts at one position (equal texts
    are duplicates, whose order does not matter) and `num_mixed` articles have more than one value in a witness; `tied`
    and `mixed` list some of them. `num_from_zero` and `num_from_one` count the articles by their first position,
    `num_gapless` those with a row at each whole number from their first position to their last.
    """

    num_rows: int
    num_keyed: int
    num_articles: int
    num_from_zero: int = 0
    num_from_one: int = 0
    num_gapless: int | None = None
    num_tied: int = 0
    tied: tuple[AmbiguousArticle, ...] = ()
    num_mixed: int = 0
    mixed: tuple[AmbiguousArticle, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OrderRequest:
    """What the user asks for: columns by name, or the order of the table."""

    article_column: str | None = None
    position_column: str | None = None
    accept_table_order: bool = False


@dataclass(frozen=True, kw_only=True)
class OrderDecision:
    """The rule that orders the concepts, or None; the finding says why. `warning` is set if the order is unknown."""

    rule: OrderRule | None
    finding: Finding
    warning: str | None = None


def choose_order(
    kinds: Mapping[str, ColumnKind], examine: Callable[[OrderRule], KeyFacts], *, request: OrderRequest
) -> OrderDecision:
    """Choose the first rule that orders every row; if none does, the finding names the ambiguous articles.

    `kinds` are the columns of the entry table; `examine` counts the facts of a rule in the database.
    """
    failed: list[dict[str, Any]] = []
    passed_over: tuple[OrderRule, KeyFacts] | None = None
    table_rules = _table_order_rules(kinds, request) if request.accept_table_order else ()
    for rule in chain(_known_rules(kinds, request, failed), table_rules):
        facts = examine(rule)
        failure = _failure(rule, facts)
        if failure is None and _is_one_concept_an_article(rule, facts):
            passed_over = passed_over or (rule, facts)
            failure = _failed(rule, f"each of the {facts.num_rows} rows has a {rule.article} of its own")
        if failure is None:
            return _decided(rule, facts, failed)
        failed.append(failure)
    if passed_over is not None:
        return _decided(*passed_over, failed)
    return OrderDecision(rule=None, finding=_refusal(failed))


def _is_one_concept_an_article(rule: OrderRule, facts: KeyFacts) -> bool:
    """Whether every row is an article of its own, for example because document ids were derived from concept ids."""
    return facts.num_articles == facts.num_rows > 1 and not rule.is_named


def _known_rules(
    kinds: Mapping[str, ColumnKind], request: OrderRequest, failed: list[dict[str, Any]]
) -> Iterator[OrderRule]:
    if request.article_column or request.position_column:
        rule = _named_rule(kinds, request)
        if rule is not None:
            yield rule
        return
    for rule in _standard_rules(kinds):
        missing = [part.column for part in (rule.article, rule.position) if part and not _is_usable(part, kinds)]
        if missing:
            failed.append(_failed(rule, f"the table has no {' and no '.join(dict.fromkeys(missing))}"))
        else:
            yield rule


def _standard_rules(kinds: Mapping[str, ColumnKind]) -> list[OrderRule]:
    document = KeyPart(column="document_id")
    title = KeyPart(column="chunk_position", json_key="article_title")
    index = KeyPart(column="chunk_position", json_key="article_index", form=KeyForm.NUMBER)
    witnesses = [part for part in (document, index, title) if _is_usable(part, kinds)]
    return [
        OrderRule(
            name="document_id, sequence_index",
            article=document,
            position=KeyPart(column="sequence_index", form=KeyForm.NUMBER),
            is_counted=True,
        ),
        OrderRule(
            name="chunk_position (article_index, chunk_index)",
            article=index,
            position=KeyPart(column="chunk_position", json_key="chunk_index", form=KeyForm.NUMBER),
            is_counted=True,
            witnesses=(title,),
        ),
        OrderRule(
            name="batch_id, created_at",
            article=KeyPart(column="batch_id"),
            position=KeyPart(column="created_at", form=KeyForm.NATIVE),
            is_counted=False,
            witnesses=tuple(witnesses),
        ),
    ]


def _is_usable(part: KeyPart, kinds: Mapping[str, ColumnKind]) -> bool:
    kind = kinds.get(part.column)
    return kind in JSON_KINDS if part.json_key else kind not in (None, ColumnKind.JSON)


def _named_rule(kinds: Mapping[str, ColumnKind], request: OrderRequest) -> OrderRule | None:
    for variable, column in (
        ("LVM_ARTICLE_COLUMN", request.article_column),
        ("LVM_POSITION_COLUMN", request.position_column),
    ):
        if column and (column not in kinds or kinds[column] is ColumnKind.JSON):
            raise LvmError(
                f"{variable} is {column!r}, which is not a plain column of the entry table; "
                f"it has {', '.join(sorted(kinds))}."
            )
    if request.position_column and not request.article_column:
        raise LvmError("LVM_POSITION_COLUMN needs LVM_ARTICLE_COLUMN too; set both.")
    if not request.article_column or not request.position_column:
        if request.accept_table_order:
            return None
        raise LvmError("LVM_ARTICLE_COLUMN needs LVM_POSITION_COLUMN too (or LVM_ACCEPT_TABLE_ORDER=true); set both.")
    kind = kinds[request.position_column]
    is_whole = kind in {ColumnKind.INTEGER, ColumnKind.TEXT, ColumnKind.JSON_TEXT}
    return OrderRule(
        name=f"{request.article_column}, {request.position_column}",
        article=_article_part(request.article_column, kinds),
        position=KeyPart(column=request.position_column, form=KeyForm.NUMBER if is_whole else KeyForm.NATIVE),
        is_counted=is_whole,
        is_named=True,
    )


def _article_part(column: str, kinds: Mapping[str, ColumnKind]) -> KeyPart:
    return KeyPart(column=column, form=KeyForm.NUMBER if kinds[column] is ColumnKind.INTEGER else KeyForm.TEXT)


def _table_order_rules(kinds: Mapping[str, ColumnKind], request: OrderRequest) -> Iterator[OrderRule]:
    """Order by article and, if known, position; the table's order decides the rest."""
    if request.article_column:
        known = [(_article_part(request.article_column, kinds), None, ())]
    else:
        known = [(rule.article, rule.position, rule.witnesses) for rule in _standard_rules(kinds)]
    for article, position, witnesses in known:
        if not _is_usable(article, kinds):
            continue
        for part in (position, None) if position and _is_usable(position, kinds) else (None,):
            yield OrderRule(
                name=", ".join(str(p) for p in (article, part) if p) + ", order of the table",
                article=article,
                position=part,
                is_counted=False,
                witnesses=witnesses,
                accepts_table_order=True,
            )


def _failure(rule: OrderRule, facts: KeyFacts) -> dict[str, Any] | None:
    """Return why a rule cannot be used, None if it can."""
    parts = " or ".join(str(part) for part in (rule.article, rule.position) if part)
    if rule.position and rule.position.form is KeyForm.NUMBER:
        parts += " that is a whole number"
    if facts.num_keyed < facts.num_rows:
        return _failed(rule, f"{facts.num_rows - facts.num_keyed} of {facts.num_rows} rows have no {parts}")
    if facts.num_mixed:
        names = ", ".join(str(part) for part in rule.witnesses)
        articles = ", ".join(article.described("values") for article in facts.mixed[:MAX_LISTED])
        num_mixed = counted(facts.num_mixed, f"value of {rule.article} holds", f"values of {rule.article} hold")
        problem = f"{num_mixed} several articles, by {names}: {articles}"
        return _failed(rule, problem, facts.num_mixed, facts.mixed)
    if facts.num_tied and not rule.accepts_table_order:
        articles = ", ".join(article.described("distinct") for article in facts.tied[:MAX_LISTED])
        problem = (
            f"{counted(facts.num_tied, 'article has', 'articles have')} "
            f"different concepts at an equal {rule.position}: {articles}"
        )
        return _failed(rule, problem, facts.num_tied, facts.tied)
    return None


def _failed(
    rule: OrderRule, problem: str, num_ambiguous: int = 0, ambiguous: Sequence[AmbiguousArticle] = ()
) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "problem": problem,
        "num_ambiguous_articles": num_ambiguous,
        "ambiguous_articles": [asdict(article) for article in ambiguous[:MAX_LISTED]],
    }


def _decided(rule: OrderRule, facts: KeyFacts, failed: list[dict[str, Any]]) -> OrderDecision:
    is_counted = rule.is_counted and (not rule.is_named or _counts_each_article(facts))
    rule = replace(rule, is_counted=is_counted, first_position=int(facts.num_from_one > 0 and facts.num_from_zero == 0))
    warning = None
    message = (
        f"{counted(facts.num_rows, 'concept')} of {counted(facts.num_articles, 'article')} are ordered by {rule.name}"
    )
    if rule.accepts_table_order:
        warning = f"The order inside articles is that of the table's rows ({rule.name}): it was accepted, not verified."
        message = f"{message}, which was accepted but not verified"
    elif rule.is_named and not rule.is_counted and (gaps := _gaps_in_words(rule, facts)):
        message = f"{message}, {gaps}"
        warning = message if 2 * (facts.num_gapless or 0) > facts.num_articles else None
    finding = order_is_unambiguous.finding(
        passed=warning is None,
        severity=Severity.WARNING if warning else None,
        message=message,
        observed=facts.num_tied if rule.accepts_table_order else 0,
        allowed=0,
        details={"order_key": rule.name, "tried": failed},
    )
    return OrderDecision(rule=rule, finding=finding, warning=warning)


def _counts_each_article(facts: KeyFacts) -> bool:
    """Whether a column that the user named counts the concepts of every article without a gap, and not only ranks."""
    starts = facts.num_from_zero + facts.num_from_one
    return facts.num_gapless in (None, facts.num_articles) and 2 * starts > facts.num_articles


def _gaps_in_words(rule: OrderRule, facts: KeyFacts) -> str | None:
    if facts.num_gapless is None or facts.num_gapless == facts.num_articles:
        return None
    return (
        f"which only ranks them: in {counted(facts.num_articles - facts.num_gapless, 'article')} {rule.position} does "
        "not count by ones, so concepts that are missing there cannot be seen"
    )


def _refusal(failed: list[dict[str, Any]]) -> Finding:
    tried = "; ".join(f"{each['rule']}: {each['problem']}" for each in failed)
    return order_is_unambiguous.finding(
        passed=False,
        message=f"no rule orders the concepts ({tried})",
        observed=max((each["num_ambiguous_articles"] for each in failed), default=0),
        allowed=0,
        details={"order_key": None, "tried": failed},
    )
