"""Turn values into self-contained HTML pages: style, plots and data in one file, nothing fetched."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lvm_pipeline.tables import three_digits
from lvm_pipeline.words import counted

THIN_SPACE = "\u202f"
EXCLUSIONS_IN_WORDS = {
    "context_rows": "without the {concepts} right before the target",
    "earlier_rows_of_article": "without any earlier concept of the target's article",
}


def render(template: str, **values: Any) -> str:
    """Fill a template of the folder `templates`."""
    return _environment().get_template(template).render(**values)


@cache  # a process compiles each template once
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"duration": duration, "count": count, "counted": counted_in_page, "size": size}
    environment.filters |= {**filters, "three_digits": three_digits}
    return environment


def count(value: int) -> str:
    """Write a count with thin spaces between thousands."""
    return f"{value:,}".replace(",", THIN_SPACE)


def counted_in_page(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun, with thin spaces between thousands; see `words.counted`."""
    return counted(number, one, many).replace(",", THIN_SPACE)


def size(num_params: int) -> str:
    """Write a number of parameters in thousands, millions or billions."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if num_params >= 0.9995 * factor:  # what rounds to one of this unit
            return f"{num_params / factor:.3g} {unit}"
    return str(num_params)


def duration(seconds: float) -> str:
    """Write a time in a readable unit."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def exclusion_in_words(exclusion: str, *, context_length: int) -> str:
    """Say which candidates a rule excludes."""
    return EXCLUSIONS_IN_WORDS[exclusion].format(concepts=counted(context_length, "concept"))


def context_in_words(context_mode: str, context_length: int) -> str:
    if context_mode == "articles":
        return "everything before the target in its article"
    return f"the {counted(context_length, 'concept')} before the target"
