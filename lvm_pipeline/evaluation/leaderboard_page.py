"""The leaderboard's table, its HTML page and its files."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from lvm_pipeline.evaluation.glossary import COLUMNS
from lvm_pipeline.evaluation.leaderboard import THRESHOLDS, BaselineRow, Leaderboard, ModelRow, cautions, headline
from lvm_pipeline.evaluation.leaderboard_plot import models_beside_baselines
from lvm_pipeline.evaluation.pages import context_in_words, exclusion_in_words, render, size
from lvm_pipeline.evaluation.report_tables import (
    RETRIEVAL_TITLES,
    baseline_in_words,
    interval_in_words,
    interval_mark,
    noted,
    retrieval_columns,
)
from lvm_pipeline.evaluation.standing_scores import Standing
from lvm_pipeline.evaluation.standing_tables import standing_columns
from lvm_pipeline.files import write_json, write_text
from lvm_pipeline.measures.retrieval import CONTEXT_ROWS, EARLIER_ROWS, Exclusion, RetrievalScores
from lvm_pipeline.tables import Column, Mark, Table, number, three_digits
from lvm_pipeline.words import counted

JSON_NAME, HTML_NAME = "leaderboard.json", "leaderboard.html"
PAGE_COLUMNS = ("rank", "predictor", "cosine", "centred cosine", "gain over the best baseline", "R@1", "R@10", "MRR")

BoardRow = ModelRow | BaselineRow


def write_leaderboard(
    board: Leaderboard, board_dir: Path, *, links: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Write `leaderboard.json` and `leaderboard.html` and return their paths.

    `links` is the path of each model's report relative to the folder, by `model_fingerprint`.
    """
    json_path, html_path = board_dir / JSON_NAME, board_dir / HTML_NAME
    write_json(json_path, board.as_json())
    write_text(html_path, leaderboard_html(board, links=links))
    return json_path, html_path


def leaderboard_html(board: Leaderboard, *, links: Mapping[str, str] | None = None) -> str:
    other = EARLIER_ROWS if board.exclusion == CONTEXT_ROWS else CONTEXT_ROWS
    return render(
        "leaderboard.html.jinja",
        board=board,
        plot=Markup(models_beside_baselines(board)),
        table=leaderboard_table(board, links=links).only(*PAGE_COLUMNS),
        exclusion=exclusion_in_words(board.exclusion, context_length=board.context_length),
        other_exclusion=other,
        other_exclusion_words=exclusion_in_words(other, context_length=board.context_length),
        other_retrieval=leaderboard_table(board, exclusion=other).only(*RETRIEVAL_TITLES),
        thresholds=thresholds_table(board),
        standing=standing_board(board),
        columns=COLUMNS,
        headline=headline(board),
        cautions=cautions(board),
    )


def leaderboard_table(
    board: Leaderboard, *, exclusion: Exclusion | None = None, links: Mapping[str, str] | None = None
) -> Table[BoardRow]:
    """Return models and baselines, highest cosine first; retrieval under one exclusion rule."""
    rule = exclusion or board.exclusion
    gains = [row.gain for row in board.models]
    ranks = {id(row): rank for rank, row in enumerate(board.rows, start=1)}

    def gain_text(row: BoardRow) -> str:
        return interval_in_words(row.gain) if isinstance(row, ModelRow) else ""

    def gain_html(row: BoardRow) -> Markup:
        if isinstance(row, ModelRow):
            return noted(interval_mark(row.gain, gains), f"over {row.best_baseline}")
        return Markup('<span class="muted">{}</span>').format("best baseline" if row.is_best else "baseline")

    def retrieval_of(row: BoardRow) -> RetrievalScores:
        return row.retrieval[rule]

    columns: list[Column[BoardRow]] = [
        Column(title="rank", text=lambda row: str(ranks[id(row)])),
        Column(title="champion", text=lambda row: "yes" if isinstance(row, ModelRow) and row.is_champion else ""),
        Column(
            title="predictor",
            text=lambda row: row.name,
            html=lambda row: _predictor_html(row, links or {}),
            is_text=True,
        ),
        Column(title="name", text=lambda row: row.name, is_text=True),
        Column(title="reads", text=_reads),
        number("cosine", lambda row: row.cosine),
        number("centred cosine", lambda row: row.centred_cosine),
        Column(title="gain over the best baseline", text=gain_text, html=gain_html, is_text=True),
        *retrieval_columns(retrieval_of),
        Column(title="MRR gain over the best ranking baseline", text=_ranking_gain, is_text=True),
    ]
    return Table(columns=columns, rows=board.rows, kind=_kind)


def thresholds_table(board: Leaderboard) -> Table[ModelRow]:
    """Return what each model measured against the thresholds of the project."""
    allowed = {name: found.allowed for row in board.models for name, found in row.thresholds.items()}
    predictor: Column[ModelRow] = Column(title="model", text=lambda row: row.name, is_text=True)
    return Table(columns=[predictor, *(_threshold_column(*item) for item in allowed.items())], rows=board.models)


def _threshold_column(name: str, allowed: float | None) -> Column[ModelRow]:
    def text(row: ModelRow) -> str:
        found = row.thresholds.get(name)
        return "" if found is None or found.observed is None else three_digits(found.observed)

    def mark(row: ModelRow) -> Mark:
        return "good" if name in row.thresholds and row.thresholds[name].passed else "bad"

    return Column(title=THRESHOLDS[name].format(allowed), text=text, mark=mark)


def _predictor_html(row: BoardRow, links: Mapping[str, str]) -> Markup:
    if isinstance(row, BaselineRow):
        return noted(row.name, baseline_in_words(row.name, row.fitted))
    name = Markup("{}").format(row.name)
    if row.model_fingerprint in links:
        name = Markup('<a href="{}">{}</a>').format(links[row.model_fingerprint], row.name)
    name += Markup('&ensp;<span class="pill champion">champion</span>') if row.is_champion else Markup()
    name += Markup('&ensp;<span class="pill warn">leaking</span>') if row.is_leaking else Markup()
    facts = f"{size(row.num_params)} parameters, reads {context_in_words(row.context_mode, row.context_length)}"
    shown = (row.trial_id if row.trial_id != row.name else None, facts)
    return noted(name, ", ".join(filter(None, shown)))


def standing_board(board: Leaderboard) -> Table[ModelRow]:
    columns: list[Column[ModelRow]] = [
        Column(title="model", text=lambda row: row.name, is_text=True),
        Column(title="MRR gain over the best ranking baseline", text=_ranking_gain, is_text=True),
        *standing_columns(_standing),
    ]
    return Table(columns=columns, rows=[row for row in board.models if row.standing is not None])


def _standing(row: ModelRow) -> Standing:
    assert row.standing is not None
    return row.standing.predictors[0]


def _ranking_gain(row: BoardRow) -> str:
    if not isinstance(row, ModelRow) or row.ranking is None:
        return ""
    return f"{interval_in_words(row.ranking.gain)} over {row.ranking.best_baseline}"


def _reads(row: BoardRow) -> str:
    if isinstance(row, BaselineRow):
        return ""
    return "article" if row.context_mode == "articles" else counted(row.context_length, "concept")


def _kind(row: BoardRow) -> str:
    return "model" if isinstance(row, ModelRow) else "best" if row.is_best else ""
