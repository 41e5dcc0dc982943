"""The page of an article that every trained architecture has predicted, and the form that asks for one."""

from lvm_pipeline.evaluation.pages import render
from lvm_pipeline.inference.trying import Tried, TriedArticle
from lvm_pipeline.tables import Column, Table, number

LONGEST_TEXT = 50  # characters of a concept in the terminal


def try_page(
    article: TriedArticle | None,
    *,
    title: str = "Try an article",
    has_form: bool = False,
    text: str = "",
    problem: str | None = None,
) -> str:
    """Return the page; without an article, only the form with a `text` that was refused and the `problem` with it."""
    return render(
        "try.html.jinja",
        article=article,
        title=title,
        has_form=has_form,
        text="\n\n".join(article.texts) if article else text,
        problem=problem,
        table=None if article is None else tried_table(article),
    )


def tried_table(article: TriedArticle) -> Table[Tried]:
    """Return one row per predictor, best mean cosine first."""
    columns: list[Column[Tried]] = [
        Column(title="predictor", text=lambda row: row.name, is_text=True),
        number("mean cosine to what followed", lambda row: row.mean_cosine),
        Column(title="closest", text=lambda row: f"{row.wins} of {len(article.winners)}"),
    ]
    return Table(columns=columns, rows=article.tried)


def positions_table(article: TriedArticle) -> Table[int]:
    """Return one row per concept that followed: the closest predictor, its cosine and the mean of all."""
    by_name = {each.name: each for each in article.tried}

    def cosine(row: int) -> float | None:
        return by_name[article.winners[row]].expected[row].cosine

    def mean(row: int) -> float:
        return sum(each.expected[row].cosine or 0.0 for each in article.tried) / len(article.tried)

    columns: list[Column[int]] = [
        number("concept", lambda row: row + 2, "d"),
        Column(title="closest", text=lambda row: article.winners[row], is_text=True),
        number("its cosine", cosine),
        number("mean of all", mean),
        Column(title="text", text=lambda row: _beginning(article.texts[row + 1]), is_text=True),
    ]
    return Table(columns=columns, rows=range(len(article.winners)))


def _beginning(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1].rstrip() + "\u2026"
