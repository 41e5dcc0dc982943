"""Tables for people, declared once as columns over rows and shown as Markdown, HTML or (`cli.render`) in a terminal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from markupsafe import Markup, escape

Row = TypeVar("Row")
Mark = Literal["good", "bad", "warn", "unsure", ""]
OUTCOME_MARKS: Mapping[str, Mark] = {"passed": "good", "failed": "bad", "warning": "warn", "not checked": "unsure"}


@dataclass(frozen=True, kw_only=True)
class Column(Generic[Row]):
    title: str  # its heading
    text: Callable[[Row], str]  # the cell of a row as plain text; empty if there is no value
    html: Callable[[Row], Markup] | None = None  # a richer cell for pages; default: the text
    mark: Callable[[Row], Mark] | None = None  # how a page or terminal colours the cell; "" is plain
    is_text: bool = False  # whether cells are words, which align left, or numbers

    def html_cell(self, row: Row) -> Markup:
        content = self.html(row) if self.html else escape(self.text(row))
        mark = self.mark(row) if self.mark else ""
        return Markup('<span class="pill {}">{}</span>').format(mark, content) if mark and content else content


@dataclass(frozen=True, kw_only=True)
class Table(Generic[Row]):
    """Rows under columns; `kind` names a row's kind (`model`, `best`, `chance`), and rows of models are bold."""

    columns: Sequence[Column[Row]]
    rows: Sequence[Row]
    kind: Callable[[Row], str] = lambda _: ""

    def only(self, *titles: str) -> "Table[Row]":
        """Return the table with the named columns, in the order of the names."""
        by_title = {column.title: column for column in self.columns}
        return replace(self, columns=[by_title[title] for title in titles])

    def markdown(self) -> str:
        if not self.rows:
            return "(none)"
        lines = ["| " + " | ".join(column.title for column in self.columns) + " |", "|" + " --- |" * len(self.columns)]
        for row in self.rows:
            cells = [_markdown_cell(column.text(row)) for column in self.columns]
            if self.kind(row) == "model":
                cells = [f"**{cell}**" if cell else "" for cell in cells]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def __html__(self) -> str:
        """Return the table in HTML; templates write it as `{{ table }}`."""
        sides = [Markup(' class="left"') if column.is_text else Markup() for column in self.columns]
        pairs = list(zip(sides, self.columns, strict=True))
        head = Markup().join(Markup("<th{}>{}</th>").format(side, column.title) for side, column in pairs)
        body = Markup().join(
            Markup('<tr class="{}">{}</tr>\n').format(
                self.kind(row),
                Markup().join(
                    Markup('<td{} data-label="{}">{}</td>').format(side, column.title, column.html_cell(row))
                    for side, column in pairs
                ),
            )
            for row in self.rows
        )
        return Markup("<table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table>").format(head, body)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


RESULT: Column[Any] = Column(
    title="result", text=lambda row: row.outcome, mark=lambda row: OUTCOME_MARKS[row.outcome], is_text=True
)
"""The outcome of a finding."""


def three_digits(value: float) -> str:
    """Write a number with three significant digits, or with all those before the point; large ones get no exponent."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def number(
    title: str,
    value: Callable[[Row], float | None],
    spec: str = ".4f",
    *,
    write: Callable[[float], str] | None = None,
) -> Column[Row]:
    """Return a column of numbers, in a format or by a function; a cell is empty if the value is None."""

    def text(row: Row) -> str:
        found = value(row)
        if found is None:
            return ""
        return write(found) if write else format(found, spec)

    return Column(title=title, text=text)


def table_of(rows: Sequence[Mapping[str, object]]) -> Table[Mapping[str, object]]:
    """Return rows with equal keys as a table, their keys as headings; floats get four decimals, counts separators."""
    return Table(columns=[_keyed(key, rows) for key in (rows[0] if rows else ())], rows=rows)


def _keyed(key: str, rows: Sequence[Mapping[str, object]]) -> Column[Mapping[str, object]]:
    is_text = any(isinstance(row.get(key), str) for row in rows)
    return Column(title=key.replace("_", " "), text=lambda row: _in_words(row.get(key)), is_text=is_text)


def _in_words(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)
