"""Turn values into self-contained HTML pages: style, plots and data in one file, nothing fetched."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

EXCLUSIONS_IN_WORDS = {
    "context_rows": "without the {context_length} concepts right before the target",
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
    environment.filters |= {"duration": duration, "count": count, "size": size, "with_code": with_code}
    return environment


def with_code(sentence: str) -> Markup:
    """Set what stands between backticks, such as a command, as code."""
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
    return EXCLUSIONS_IN_WORDS[exclusion].format(context_length=context_length)


def context_in_words(context_mode: str, context_length: int) -> str:
    if context_mode == "articles":
        return "everything before the target in its article"
    return f"the {context_length} concepts before the target"
