"""A plot of the best model of each architecture and the baseline that it has to beat."""

from lvm_pipeline.evaluation import svg
from lvm_pipeline.evaluation.leaderboard import Leaderboard, ModelRow
from lvm_pipeline.evaluation.plots import gain_kind

WIDTH, ROW_HEIGHT = 520, 34
LEFT, RIGHT, TOP = 118, 500, 58


def models_beside_baselines(board: Leaderboard) -> str:
    """Draw cosine by architecture: a dot with the interval of its gain for the model, a ring for the best baseline."""
    best: dict[str, ModelRow] = {}
    for row in board.models:  # highest cosine first
        best.setdefault(row.architecture, row)
    bottom = TOP + ROW_HEIGHT * len(best)
    values = [value for row in best.values() for value in (_baseline(row), row.cosine, *_bounds(row))]
    x = svg.linear_scale(min(values), max(values), start=LEFT, end=RIGHT)
    marks = [
        svg.text(14, 14, "● model above the baseline", css="note good"),
        svg.text(216, 14, "● no clear difference", css="note unsure"),
        svg.text(372, 14, "● model below it", css="note bad"),
        svg.text(14, 32, "○ best baseline", css="note baseline"),
        svg.text(372, 32, "— 95 % interval"),
    ]
    marks += [svg.line(x(tick), TOP - 10, x(tick), bottom, css="grid") for tick in x.ticks]
    marks += [svg.text(x(tick), bottom + 16, f"{tick:g}", anchor="middle") for tick in x.ticks]
    for index, row in enumerate(best.values()):
        marks += _row(row, x, TOP + ROW_HEIGHT * (index + 0.5) - 5)
    marks.append(svg.text((LEFT + RIGHT) / 2, bottom + 34, "cosine of prediction and target", anchor="middle"))
    return svg.figure(marks, width=WIDTH, height=bottom + 42, label="Cosine of each architecture and its best baseline")


def _row(row: ModelRow, x: svg.Scale, y: float) -> list[str]:
    css, base = gain_kind(row.gain), _baseline(row)
    marks = [svg.text(LEFT - 12, y + 4, row.architecture, anchor="end")]
    if bounds := _bounds(row):
        marks.append(svg.line(x(bounds[0]), y, x(bounds[1]), y, css=f"whisker {css}"))
    ring = svg.dot(x(base), y, css="ring baseline", radius=5, title=f"{row.best_baseline}: {base:.4f}")
    model = svg.dot(
        x(row.cosine), y, css=css, radius=5, title=f"{row.name}: {row.cosine:.4f}, gain {row.gain.mean:+.4f}"
    )
    return [*marks, ring, model]


def _baseline(row: ModelRow) -> float:
    return row.cosine - row.gain.mean


def _bounds(row: ModelRow) -> tuple[float, float] | tuple[()]:
    """Return the baseline's cosine plus the bounds of the gain."""
    low, high = row.gain.low, row.gain.high
    return () if low is None or high is None else (_baseline(row) + low, _baseline(row) + high)
