"""The section on human preference: its tables and sentences."""

from dataclasses import dataclass

from lvm_pipeline.evaluation.not_run import NO_PREFERENCE, NotRun
from lvm_pipeline.evaluation.preference import ComparisonScores, PreferenceScores, RaterScores, Strength
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.tables import OUTCOME_MARKS, Column, Table, number


@dataclass(frozen=True, kw_only=True)
class PreferenceSection:
    """What a page shows; without tables if no rater was asked."""

    not_run: str | None = None
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def preference_section(scores: PreferenceScores | NotRun | None) -> PreferenceSection:
    """Return what a page shows of a study."""
    if scores is None or isinstance(scores, NotRun):
        return PreferenceSection(not_run=(scores or NO_PREFERENCE).not_run)
    return PreferenceSection(
        sentences=tuple(preference_sentences(scores)),
        tables=(comparison_table(scores), strength_table(scores), rater_table(scores)),
    )


def preference_sentences(scores: PreferenceScores) -> list[str]:
    sentences = ["Raters did not know which text was which."]
    if scores.has_programs:
        has_people = any(rater.is_human for rater in scores.raters)
        sentences.append(f"{'Some' if has_people else 'All'} raters are programs, not people.")
    if scores.agreement is not None:
        sentences.append(f"Agreement of the raters (Krippendorff's alpha): {scores.agreement:.2f}.")
    return sentences


def comparison_table(scores: PreferenceScores) -> Table[ComparisonScores]:
    """Return one row per two arms."""

    def verdict(row: ComparisonScores) -> str:
        return {True: "passed", False: "failed", None: "not checked"}[row.is_above_threshold]

    columns: list[Column[ComparisonScores]] = [
        Column(title="preferred", text=lambda row: f"{row.treatment} over {row.baseline}", is_text=True),
        Column(title="win rate", text=lambda row: in_percent(row.win_rate), is_text=True),
        Column(
            title=f"above {scores.threshold:.0%}",
            text=verdict,
            mark=lambda row: OUTCOME_MARKS[verdict(row)],
            is_text=True,
        ),
        number("judgements", lambda row: row.num_judgements, "d"),
        number("ties", lambda row: row.num_ties, "d"),
        number("pairs", lambda row: row.num_pairs, "d"),
    ]
    return Table(columns=columns, rows=list(scores.comparisons))


def strength_table(scores: PreferenceScores) -> Table[Strength]:
    """Return one row per arm, strongest first."""
    columns: list[Column[Strength]] = [
        Column(title="text", text=lambda row: row.arm, is_text=True),
        number("Bradley-Terry strength", lambda row: row.strength.mean, ".2f"),
        number("low", lambda row: row.strength.low, ".2f"),
        number("high", lambda row: row.strength.high, ".2f"),
    ]
    return Table(columns=columns, rows=list(scores.strengths))


def rater_table(scores: PreferenceScores) -> Table[RaterScores]:
    columns: list[Column[RaterScores]] = [
        Column(title="rater", text=lambda row: row.rater + ("" if row.is_human else " (program)"), is_text=True),
        number("judgements", lambda row: row.num_judgements, "d"),
        number("repeats", lambda row: row.num_repeats, "d"),
        number("same answer on repeats", lambda row: row.self_consistency, ".0%"),
        number("prefers the first text", lambda row: row.first_share, ".0%"),
    ]
    return Table(columns=columns, rows=list(scores.raters))


def in_percent(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:.0%} (one article: no interval)"
    return f"{found.mean:.0%} [{found.low:.0%}, {found.high:.0%}]"
