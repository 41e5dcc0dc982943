"""Small charts as inline SVG: scales, a frame with ticks, and marks. Colours come from the page's style sheet.

Every mark has a class (`model`, `baseline`, ...), so that the same drawing reads well on a light and on a dark page.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`, linear or logarithmic, with its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, clamped to the scale."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def linear_scale(low: float, high: float, *, start: float, end: float, num_ticks: int = 5) -> Scale:
    """Return a scale over at least low to high that begins and ends at a round number."""
    span = max(high - low, 1e-6 * max(abs(low), abs(high), 1.0))
    step = 10.0 ** math.floor(math.log10(span / num_ticks))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= num_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Scale(low=ticks[0], high=ticks[-1], start=start, end=end, ticks=ticks)


def log_scale(low: float, high: float, *, start: float, end: float) -> Scale:
    """Return a logarithmic scale with a tick at each power of ten."""
    high = max(high, low * 10)
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    return Scale(low=low, high=high, start=start, end=end, ticks=tuple(10.0**p for p in powers), is_log=True)


def text(x: float, y: float, content: str, *, css: str = "tick", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, *, css: str) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{css}"/>'


def path(points: Points, *, css: str, title: str = "") -> str:
    """Draw a line through pixels."""
    coordinates = " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{coordinates}" class="line {css}"><title>{escape(title)}</title></path>'


def dot(x: float, y: float, *, css: str, radius: float = 3, title: str = "") -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="dot {css}"><title>{escape(title)}</title></circle>'


def bar(x: float, width: float, y1: float, y2: float, *, css: str, title: str = "") -> str:
    """Draw a bar between two heights, with a tooltip."""
    top, height = min(y1, y2), max(abs(y2 - y1), 0.5)
    return (
        f'<rect x="{x:g}" y="{top:g}" width="{max(width, 0.3):g}" height="{height:g}" class="bar {css}">'
        f"<title>{escape(title)}</title></rect>"
    )


def grid(x: Scale, y: Scale, *, y_format: Callable[[float], str]) -> str:
    """Draw horizontal grid lines with their values."""
    marks = [line(x.start, y(tick), x.end, y(tick), css="grid") for tick in y.ticks]
    return "".join(marks + [text(x.start - 8, y(tick) + 4, y_format(tick), anchor="end") for tick in y.ticks])


def axes(x: Scale, y: Scale, *, x_format: Callable[[float], str], y_format: Callable[[float], str]) -> str:
    """Draw horizontal grid lines with their values, and the ticks along the bottom."""
    bottom = max(y.start, y.end)
    ticks = [text(x(tick), bottom + 18, x_format(tick), anchor="middle") for tick in x.ticks]
    return grid(x, y, y_format=y_format) + "".join(ticks)


def figure(marks: Sequence[str], *, width: int, height: int, label: str) -> str:
    """Wrap marks into an SVG that fills the width it is given; `label` tells what it shows to those who cannot see."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(marks)}</svg>'
    )
