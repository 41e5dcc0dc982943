"""The table and the plots of a roll-out."""

from collections.abc import Callable, Sequence

from lvm_pipeline.evaluation import svg
from lvm_pipeline.evaluation.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from lvm_pipeline.evaluation.report import EvaluationReport
from lvm_pipeline.evaluation.report_parts import HELD, LINEAR, MODEL, NEAREST, TRUTH, RolloutCurve, RolloutScores
from lvm_pipeline.evaluation.report_tables import interval_in_words
from lvm_pipeline.tables import Column, Table, number
from lvm_pipeline.words import counted

TITLES = {"cosine": "cosine", "mrr": "MRR"}
SHOWN = {LINEAR: "linear forecast", HELD: "last concept, repeated", TRUTH: "model, reading the true concepts"}
LEGEND_LINE = 18  # pixels
DRAWN = {HELD: "chance", LINEAR: "baseline", NEAREST: "other", MODEL: "model"}


def rollout_table(rollout: RolloutScores) -> Table[int]:
    """Return one row per step: cosine and MRR of each curve, and the gain over the linear forecast."""

    def column(curve: RolloutCurve, what: str) -> Column[int]:
        few = "" if curve.num_articles == rollout.num_articles else f" ({counted(curve.num_articles, 'article')})"
        return number(
            f"{TITLES[what]}: {SHOWN.get(curve.name, curve.name)}{few}",
            lambda step: getattr(curve, what)[step - 1],
            ".4f",
        )

    columns: list[Column[int]] = [number("step", lambda step: step, "d")]
    columns += [column(curve, "cosine") for curve in rollout.curves]
    columns.append(
        Column(
            title="gain over the linear forecast",
            text=lambda step: interval_in_words(rollout.gains[step - 1]),
            is_text=True,
        )
    )
    columns += [column(curve, "mrr") for curve in rollout.curves if curve.name in (MODEL, LINEAR, TRUTH)]
    return Table(columns=columns, rows=rollout.steps)


def rollout_cosine(report: EvaluationReport) -> str:
    """Draw cosine against the number of steps."""
    return _curves(report.rollout, lambda curve: curve.cosine, "Roll-out: cosine by step")


def rollout_mrr(report: EvaluationReport) -> str:
    """Draw the mean reciprocal rank against the number of steps."""
    return _curves(report.rollout, lambda curve: curve.mrr, "Roll-out: MRR by step")


def _legend(drawn: Sequence[tuple[RolloutCurve, str]]) -> list[str]:
    """Name the curves above the plot, two to a line, so that no name hides a line."""
    marks = []
    for index, (curve, css) in enumerate(reversed(drawn)):
        x, anchor = ((LEFT, "start"), (RIGHT, "end"))[index % 2]
        height = TOP - 12 + LEGEND_LINE * (index // 2)
        marks.append(svg.text(x, height, SHOWN.get(curve.name, curve.name), css=f"note {css}", anchor=anchor))
    return marks


def _curves(rollout: RolloutScores | None, values: Callable[[RolloutCurve], tuple[float, ...]], label: str) -> str:
    if rollout is None:
        return ""
    drawn = [(rollout.by_name[name], css) for name, css in DRAWN.items() if name in rollout.by_name]
    all_values = [value for curve, _ in drawn for value in values(curve)]
    x = svg.linear_scale(1, rollout.steps[-1], start=LEFT, end=RIGHT, num_ticks=rollout.steps[-1])
    y = svg.linear_scale(min(0, *all_values), max(all_values), start=BOTTOM, end=TOP + LEGEND_LINE)
    marks = [svg.axes(x, y, x_format=lambda v: f"{v:g}", y_format=lambda v: f"{v:g}")]
    for curve, css in drawn:
        points = [(x(step), y(value)) for step, value in zip(rollout.steps, values(curve), strict=True)]
        marks.append(svg.path(points, css=css, title=SHOWN.get(curve.name, curve.name)))
    marks += _legend(drawn)
    marks.append(svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, "steps ahead", anchor="middle"))
    return svg.figure(marks, width=WIDTH, height=HEIGHT, label=label)
