"""The tables of ranking and standing figures."""

from collections.abc import Callable
from typing import TypeVar

from lvm_pipeline.evaluation.ranking_scores import RankedPredictor, RankingScores
from lvm_pipeline.evaluation.report_parts import CurvePoint, LearningCurve
from lvm_pipeline.evaluation.report_tables import interval_in_words, noted
from lvm_pipeline.evaluation.standing_scores import LeakStep, Standing, StandingScores
from lvm_pipeline.measures.ranking import RANKING_BASELINES
from lvm_pipeline.tables import Column, Table, number

Row = TypeVar("Row")


def ranking_table(ranking: RankingScores) -> Table[RankedPredictor]:
    """Return the model and the ranking baselines, best MRR first."""

    def note(row: RankedPredictor) -> str:
        values = [f"{name} {value:g}" for name, value in row.fitted.items()]
        return " \u00b7 ".join(filter(None, [RANKING_BASELINES.get(row.name, ""), *values]))

    columns: list[Column[RankedPredictor]] = [
        Column(title="predictor", text=lambda row: row.name, html=lambda row: noted(row.name, note(row)), is_text=True),
        number("MRR", lambda row: row.mrr),
        number("MRR with hubness correction", lambda row: row.corrected_mrr),
        number("R@1", lambda row: row.r_at_1, ".3f"),
        number("R@10", lambda row: row.r_at_10, ".3f"),
    ]
    model, best = ranking.predictors[0], ranking.best_baseline
    return Table(
        columns=columns,
        rows=sorted(ranking.predictors, key=lambda row: -row.better_mrr),
        kind=lambda row: "model" if row is model else "best" if row.name == best else "",
    )


def standing_table(standing: StandingScores) -> Table[Standing]:
    """Return one row per predictor, the model first."""
    predictor: Column[Standing] = Column(title="predictor", text=lambda row: row.name, is_text=True)
    return Table(columns=[predictor, *standing_columns(_same)], rows=list(standing.predictors))


def standing_columns(of: Callable[[Row], Standing]) -> list[Column[Row]]:
    return [
        number("nearer than a random concept", lambda row: of(row).contrastive.random, ".3f"),
        number("nearer than one of the same article", lambda row: of(row).contrastive.same_article, ".3f"),
        number("cluster accuracy", lambda row: of(row).clusters.accuracy, ".3f"),
        number("median cluster rank", lambda row: of(row).clusters.median_rank, "g"),
        number("effective rank", lambda row: of(row).effective_rank, ".1f"),
    ]


def _same(row: Standing) -> Standing:
    return row


def ladder_table(standing: StandingScores) -> Table[LeakStep]:
    """Return one row per number of words."""
    columns: list[Column[LeakStep]] = [
        number("first words known", lambda row: row.num_words, "d"),
        number("cosine", lambda row: row.cosine.mean),
        number("low", lambda row: row.cosine.low),
        number("high", lambda row: row.cosine.high),
    ]
    return Table(columns=columns, rows=list(standing.leak_ladder or ()))


def curve_table(curve: LearningCurve) -> Table[CurvePoint]:
    """Return one row per part of the train articles."""
    columns: list[Column[CurvePoint]] = [
        Column(title="train articles", text=lambda row: f"{row.num_articles} ({row.fraction:.0%})", is_text=True),
        number("cosine", lambda row: row.cosine.mean),
        number("linear forecast", lambda row: row.linear_cosine),
        Column(title="gain over the linear forecast", text=lambda row: interval_in_words(row.gain), is_text=True),
    ]
    return Table(columns=columns, rows=list(curve.points))
