"""The plots of the study: sensitivity to each swept field, Pareto fronts, parallel coordinates."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lvm_pipeline.architectures._registry import load_architecture
from lvm_pipeline.evaluation import svg
from lvm_pipeline.evaluation.pages import duration, size
from lvm_pipeline.experiments.plan import LAST_WEEK
from lvm_pipeline.experiments.study import Study, StudyRow, scores_of
from lvm_pipeline.tables import three_digits
from lvm_pipeline.words import counted

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 404, 26, 206
COST_WORDS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "num_params": ("parameters", lambda value: size(int(value))),
    "latency_ms": ("latency of one prediction, ms", lambda value: f"{value:g}"),
    "training_seconds": ("training time", duration),
}
BEST_FRACTION = 0.1  # fraction of the trials that is highlighted in the parallel coordinates


@dataclass(frozen=True, kw_only=True)
class Plot:
    title: str
    caption: str
    drawing: str


def sensitivity_plots(study: Study) -> list[Plot]:
    """Return one plot for each architecture and swept field with at least two values: cosine against the value."""
    plots = []
    for name in dict.fromkeys(row.architecture for row in study.done):
        rows = [row for row in study.done if row.architecture == name and row.week != LAST_WEEK]
        for option in _varied(rows):
            drawing = _sensitivity(rows, option)
            plots.append(Plot(title=f"{name}: {option.removeprefix('model.')}", caption=_levels(rows), drawing=drawing))
    return plots


def _levels(rows: Sequence[StudyRow]) -> str:
    cosines = [scores_of(row).cosine for row in rows]
    return f"{counted(len(rows), 'trial')}, cosine {min(cosines):.4f} to {max(cosines):.4f}"


def _varied(rows: Sequence[StudyRow]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row.overrides if name.startswith("model."))
    return [name for name in names if len({_text(_value(row, name)) for row in rows}) > 1]


def _value(row: StudyRow, option: str) -> Any:
    """Return a trial's value of a model field: its override, or that of its preset."""
    if option in row.overrides:
        return row.overrides[option]
    config = load_architecture(row.architecture).preset(row.preset).config
    return getattr(config, option.removeprefix("model."))


def _sensitivity(rows: Sequence[StudyRow], option: str) -> str:
    values = sorted({_text(_value(row, option)): _value(row, option) for row in rows}.values(), key=_sort_key)
    xs = {_text(value): LEFT + 30 + i * (RIGHT - LEFT - 60) / max(1, len(values) - 1) for i, value in enumerate(values)}
    cosines = [scores_of(row).cosine for row in rows]
    y = svg.linear_scale(min(cosines), max(cosines), start=BOTTOM, end=TOP, num_ticks=4)
    frame = svg.Scale(low=0, high=1, start=LEFT, end=RIGHT, ticks=())
    marks = [svg.grid(frame, y, y_format=lambda value: f"{value:g}")]
    by_value: dict[str, list[StudyRow]] = {}
    for row in rows:
        by_value.setdefault(_text(_value(row, option)), []).append(row)
    means = [
        (xs[text], y(sum(scores_of(row).cosine for row in by_value[text]) / len(by_value[text])))
        for text in map(_text, values)
    ]
    marks.append(svg.path(means, css="model", title="mean"))
    for text, found in by_value.items():
        marks.append(svg.text(xs[text], BOTTOM + 18, text, anchor="middle"))
        marks += [svg.dot(xs[text], y(scores_of(row).cosine), css="other", title=_named_cosine(row)) for row in found]
    marks.append(svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, option.removeprefix("model."), anchor="middle"))
    return svg.figure(marks, width=WIDTH, height=HEIGHT, label=f"Cosine against {option}")


def pareto_plots(study: Study) -> list[Plot]:
    """Return cosine against each cost; trials on the front are joined and named."""
    return [
        Plot(
            title=f"Cosine and {words}",
            caption="The line joins trials that no other one beats at the same cost or less.",
            drawing=_pareto(study, cost, words, as_text),
        )
        for cost, (words, as_text) in COST_WORDS.items()
    ]


def _pareto(study: Study, cost: str, words: str, as_text: Callable[[float], str]) -> str:
    costs = {row.trial_id: max(float(getattr(scores_of(row), cost)), 1e-6) for row in study.done}
    low = 10.0 ** math.floor(math.log10(min(costs.values())))
    high = 10.0 ** math.ceil(math.log10(max(costs.values())) + 1e-9)
    x = svg.log_scale(low, high, start=LEFT, end=RIGHT)
    cosines = [scores_of(row).cosine for row in study.done]
    y = svg.linear_scale(min(cosines), max(cosines), start=BOTTOM, end=TOP, num_ticks=4)
    marks = [svg.axes(x, y, x_format=as_text, y_format=lambda value: f"{value:g}")]
    for row in study.done:
        title = f"{_named_cosine(row)}, {as_text(costs[row.trial_id])}"
        css = "model" if cost in row.fronts else "unsure"
        marks.append(svg.dot(x(costs[row.trial_id]), y(scores_of(row).cosine), css=css, title=title))
    front = sorted((row for row in study.done if cost in row.fronts), key=lambda row: costs[row.trial_id])
    marks.append(
        svg.path([(x(costs[row.trial_id]), y(scores_of(row).cosine)) for row in front], css="model", title="front")
    )
    last = front[-1]
    marks.append(
        svg.text(RIGHT, 16, f"best: {last.architecture}, {scores_of(last).cosine:.4f}", css="note model", anchor="end")
    )
    marks.append(svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, words, anchor="middle"))
    return svg.figure(marks, width=WIDTH, height=HEIGHT, label=f"Cosine against {words}")


def parallel_coordinates(study: Study) -> str:
    """Draw each done trial as a line through its architecture, sizes, costs and scores; the best tenth stand out."""
    rows = study.done
    if len(rows) < 2:
        return ""
    names = sorted({row.architecture for row in rows}, reverse=True)
    axes: list[tuple[str, Callable[[StudyRow], float], bool, Callable[[float], str]]] = [
        ("architecture", lambda row: float(names.index(row.architecture)), False, str),
        ("parameters", lambda row: float(scores_of(row).num_params), True, lambda value: size(int(value))),
        ("training time", lambda row: scores_of(row).training_seconds, True, duration),
        ("latency, ms", lambda row: scores_of(row).latency_ms, True, three_digits),
        ("MRR", lambda row: scores_of(row).mrr, False, lambda value: f"{value:.3f}"),
        ("cosine", lambda row: scores_of(row).cosine, False, lambda value: f"{value:.4f}"),
    ]
    width, top, bottom = 1100, 40, 330
    xs = [110 + i * (width - 190) / (len(axes) - 1) for i in range(len(axes))]
    marks, heights = [], []
    for x, (title, value, is_log, as_text) in zip(xs, axes, strict=True):
        found = [value(row) for row in rows]
        scale = _scale_of(found, is_log, start=bottom, end=top)
        heights.append([scale(each) for each in found])
        marks += [svg.line(x, top, x, bottom, css="grid"), svg.text(x, 20, title, css="note", anchor="middle")]
        if title == "architecture":
            marks += [svg.text(x - 8, scale(i) + 4, name, anchor="end") for i, name in enumerate(names)]
        else:
            marks += [svg.text(x, bottom + 18, as_text(min(found)), anchor="middle")]
            marks += [svg.text(x, top - 6, as_text(max(found)), anchor="middle")]
    num_best = max(1, round(BEST_FRACTION * len(rows)))
    for number in reversed(range(len(rows))):
        points = [(x, height[number]) for x, height in zip(xs, heights, strict=True)]
        css = "model" if number < num_best else "faint"
        marks.append(svg.path(points, css=css, title=_named_cosine(rows[number])))
    return svg.figure(marks, width=width, height=360, label="Parallel coordinates of all trials")


def _scale_of(values: Sequence[float], is_log: bool, *, start: float, end: float) -> svg.Scale:
    low, high = min(values), max(values)
    if is_log:
        low = max(low, 1e-9)
        return svg.Scale(low=low, high=max(high, low * 1.001), start=start, end=end, ticks=(), is_log=True)
    return svg.Scale(low=low, high=high if high > low else low + 1e-9, start=start, end=end, ticks=())


def _sort_key(value: Any) -> tuple[int, float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, str(value))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _named_cosine(row: StudyRow) -> str:
    return f"{row.trial_id}: {scores_of(row).cosine:.4f}"
