"""The plots of a report and of the leaderboard, each from the report's own numbers."""

from collections.abc import Sequence
from typing import Literal

from lvm_pipeline.evaluation import svg
from lvm_pipeline.evaluation.report import EvaluationReport, TrainingRecord
from lvm_pipeline.measures.uncertainty import Interval
from lvm_pipeline.words import counted

WIDTH, HEIGHT = 620, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 600, 34, 256
LOSS_TOP = 196  # of the panel below the learning curve
BASELINE_CLASSES = ("baseline", "other")  # the best baseline, then whatever else is drawn


def learning_curves(report: EvaluationReport) -> str:
    """Draw the validation metric by epoch, and the train loss below it."""
    training = report.training
    metric = f"validation_{training.selection_metric}"
    scores, losses = _by_epoch(training, metric), _by_epoch(training, "train_loss")
    if not scores:
        return ""
    last_epoch = max(1, scores[-1][0])
    x = svg.linear_scale(0, last_epoch, start=LEFT, end=RIGHT, num_ticks=min(8, max(2, last_epoch)))
    marks = _score_panel(report, scores, x, bottom=LOSS_TOP - 34 if losses else BOTTOM)
    if losses:
        marks += _loss_panel(losses, x)
    marks += [svg.text(x(tick), BOTTOM + 18, f"{tick:g}", anchor="middle") for tick in x.ticks]
    marks.append(svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, "epoch (0 is before the first step)", anchor="middle"))
    return svg.figure(marks, width=WIDTH, height=HEIGHT, label="Learning curves")


def _by_epoch(training: TrainingRecord, name: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row[name])) for row in training.history if name in row]


def _score_panel(
    report: EvaluationReport, scores: Sequence[tuple[int, float]], x: svg.Scale, *, bottom: float
) -> list[str]:
    training = report.training
    rule = _baseline_of(report, training.selection_metric)
    values = [score for _, score in scores] + ([rule[1]] if rule else [])
    y = svg.linear_scale(min(values), max(values), start=bottom, end=TOP, num_ticks=4)
    marks = [svg.grid(x, y, y_format=lambda v: f"{v:g}")]
    best = next((row for row in scores if row[0] == training.best_epoch), scores[-1])
    name = f"validation {training.selection_metric.replace('_', ' ')}"
    marks.append(svg.text(LEFT, 16, f"{name}, {best[1]:.4f} at the chosen epoch {best[0]}", css="note model"))
    if rule:
        marks.append(svg.line(LEFT, y(rule[1]), RIGHT, y(rule[1]), css="rule baseline"))
        marks.append(svg.text(RIGHT, 16, f"{rule[0]} {rule[1]:.4f}", css="note baseline", anchor="end"))
    marks.append(svg.path([(x(e), y(score)) for e, score in scores], css="model", title=name))
    marks += [svg.dot(x(e), y(score), css="model", title=f"epoch {e}: {score:.4f}") for e, score in scores]
    marks.append(svg.dot(x(best[0]), y(best[1]), css="ring model", radius=7, title=f"chosen: epoch {best[0]}"))
    return marks


def _loss_panel(losses: Sequence[tuple[int, float]], x: svg.Scale) -> list[str]:
    values = [loss for _, loss in losses]
    y = svg.linear_scale(min(values), max(values), start=BOTTOM, end=LOSS_TOP, num_ticks=2)
    marks = [svg.grid(x, y, y_format=lambda v: f"{v:g}")]
    marks.append(svg.text(LEFT, LOSS_TOP - 10, "train loss", css="note other"))
    marks.append(svg.path([(x(e), y(loss)) for e, loss in losses], css="other", title="train loss"))
    return marks + [svg.dot(x(e), y(loss), css="other", radius=2, title=f"epoch {e}: {loss:.4f}") for e, loss in losses]


def _baseline_of(report: EvaluationReport, metric: str) -> tuple[str, float] | None:
    """Return the best baseline's value if the curve was measured on the targets of the report."""
    value = getattr(report.best, metric, None)
    is_same = report.split == "validation" and report.is_same_data_as_training
    return (report.best_baseline, value) if is_same and isinstance(value, float) else None


def cosine_distribution(report: EvaluationReport) -> str:
    """Draw how many targets got which cosine, model beside the best baseline."""
    histogram = report.cosine_histogram
    edges, counts, base = histogram.edges, histogram.model, histogram.best_baseline
    filled = [i for i, pair in enumerate(zip(counts, base, strict=True)) if any(pair)]
    first, last = max(0, filled[0] - 1), min(len(counts) - 1, filled[-1] + 1)
    total = sum(counts)
    x = svg.linear_scale(edges[first], edges[last + 1], start=LEFT, end=RIGHT, num_ticks=8)
    y = svg.linear_scale(0, max(*counts, *base) / total, start=BOTTOM, end=TOP)
    marks = [svg.axes(x, y, x_format=lambda v: f"{v:g}", y_format=lambda v: f"{100 * v:.3g} %")]
    for i in range(first, last + 1):
        label = f"cosine {edges[i]:g} to {edges[i + 1]:g}: {counted(counts[i], 'target')}"
        width = x(edges[i + 1]) - x(edges[i]) - 1
        marks.append(svg.bar(x(edges[i]), width, y(0), y(counts[i] / total), css="model soft", title=label))
    steps = [
        point
        for i in range(first, last + 1)
        for point in ((x(edges[i]), y(base[i] / total)), (x(edges[i + 1]), y(base[i] / total)))
    ]
    best = report.best_baseline
    marks.append(svg.path(steps, css="baseline", title=best))
    for css, value in (("baseline", report.best.cosine), ("model", report.cosine)):
        marks.append(svg.line(x(value), TOP, x(value), BOTTOM, css=f"rule {css}"))
    marks.append(svg.text(LEFT, 16, f"model, mean {report.cosine:.4f}", css="note model"))
    label = f"{best}, mean {report.best.cosine:.4f}"
    marks.append(svg.text(RIGHT, 16, label, css="note baseline", anchor="end"))
    marks.append(svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, "cosine of prediction and target", anchor="middle"))
    return svg.figure(marks, width=WIDTH, height=HEIGHT, label="Distribution of cosine over targets")


def gain_by_article(report: EvaluationReport) -> str:
    """Draw each article's gain over the best baseline, sorted, with the mean and its interval."""
    articles = sorted(report.articles, key=lambda article: article.gain)
    gain = report.gain
    gains = [article.gain for article in articles]
    y = svg.linear_scale(min(0, *gains, gain.mean), max(0, *gains, gain.mean), start=BOTTOM, end=TOP)
    width = (RIGHT - LEFT) / len(articles)
    x = svg.Scale(low=0, high=len(articles), start=LEFT, end=RIGHT, ticks=())
    marks = [svg.axes(x, y, x_format=str, y_format=lambda v: f"{v:+g}" if v else "0")]
    if gain.low is not None and gain.high is not None:
        marks.append(svg.bar(LEFT, RIGHT - LEFT, y(gain.low), y(gain.high), css="band", title="95 % interval"))
    for i, article in enumerate(articles):
        label = (
            f"{article.label or article.article_id}: {article.gain:+.4f} on {counted(article.num_targets, 'target')}"
        )
        css = "good" if article.gain > 0 else "bad"
        gap = min(1.5, width / 5)
        marks.append(svg.bar(x(i), width - gap, y(0), y(article.gain), css=css, title=label))
    marks.append(svg.line(LEFT, y(gain.mean), RIGHT, y(gain.mean), css="rule model"))
    num_gaining = sum(value > 0 for value in gains)
    marks.append(svg.text(LEFT, 16, f"mean {gain.mean:+.4f}, band: 95 % interval", css="note model"))
    label = f"{num_gaining} of {counted(len(articles), 'article gains', 'articles gain')}"
    marks.append(
        svg.text(RIGHT, 16, label, css="note good" if num_gaining * 2 > len(articles) else "note bad", anchor="end")
    )
    marks.append(
        svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, "articles, from the least to the most gain", anchor="middle")
    )
    return svg.figure(marks, width=WIDTH, height=HEIGHT, label="Gain over the best baseline by article")


def retrieval_curve(report: EvaluationReport) -> str:
    """Draw the share of targets among the first k candidates."""
    curve = report.retrieval_curve
    ks = curve.k
    x = svg.log_scale(1, max(ks), start=LEFT, end=RIGHT)
    y = svg.linear_scale(0, 1, start=BOTTOM, end=TOP)
    marks = [svg.axes(x, y, x_format=lambda v: f"{v:,.0f}", y_format=lambda v: f"{100 * v:.0f} %")]
    # earlier versions stored no chance; theirs is that of the mean number of candidates
    chance = curve.chance or [min(1, k / report.main_chance.mean_candidates) for k in ks]
    drawn = [("chance", "chance", chance)]
    names = dict.fromkeys((report.best_baseline, *curve.baselines))
    named = list(zip(names, BASELINE_CLASSES, strict=False))
    drawn += [(name, css, curve.baselines[name]) for name, css in reversed(named)]
    drawn.append(("model", "model", curve.model))
    for name, css, recall in drawn:
        points = [(x(k), y(value)) for k, value in zip(ks, recall, strict=True)]
        marks.append(svg.path(points, css=css, title=name))
    ends = [(name, css) for name, css, _ in reversed(drawn)]
    for i, (name, css) in enumerate(ends):
        marks.append(svg.text(RIGHT - 6, BOTTOM - 14 - 18 * (len(ends) - 1 - i), name, css=f"note {css}", anchor="end"))
    marks.append(svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, "k, number of candidates", anchor="middle"))
    return svg.figure(marks, width=WIDTH, height=HEIGHT, label="Share of targets found among the first k candidates")


def gain_kind(gain: Interval) -> Literal["good", "bad", "unsure"]:
    """Return whether a gain is above zero, below zero or neither, by more than float32 rounding."""
    if gain.is_above_zero:
        return "good"
    return "bad" if gain.is_below_zero else "unsure"


def gain_mark(gain: Interval, gains: Sequence[Interval]) -> str:
    """Draw one interval on a scale that all rows of a table share, with a line at zero."""
    bounds = [value for each in gains for value in (each.mean, each.low, each.high) if value is not None]
    reach = max((abs(value) for value in bounds), default=0) or 1.0
    x = svg.Scale(low=-1.05 * reach, high=1.05 * reach, start=2, end=138, ticks=())
    low, high = gain.low, gain.high
    css = gain_kind(gain)
    marks = [svg.line(x(0), 2, x(0), 18, css="zero")]
    if low is not None and high is not None:
        marks.append(svg.line(x(low), 10, x(high), 10, css=f"whisker {css}"))
    marks.append(svg.dot(x(gain.mean), 10, css=css, radius=4, title=f"{gain.mean:+.4f}"))
    return svg.figure(marks, width=140, height=20, label=f"gain {gain.mean:+.4f}")
