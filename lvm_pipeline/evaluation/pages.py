"""Turn values into self-contained HTML pages: style, plots and data in one file, nothing fetched."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lvm_pipeline.tables import three_digits
from lvm_pipeline.words import counted

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
    filters = {"duration": duration, "count": count, "counted": counted, "size": size}
    environment.filters |= {**filters, "three_digits": three_digits, "with_code": with_code}
    return environment


def with_code(sentence: str) -> Markup:
    """Render text between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))


def count(value: int) -> str:
    """Write a count with commas between thousands, as sentences do."""
    return f"{value:,}"


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
