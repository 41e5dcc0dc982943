"""Read records that were stored as JSON: reports, leaderboards, and sections that are stored beside their report."""

import functools
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError


class OfModel(Protocol):
    """A record that belongs to the model with these weights."""

    @property
    def model_fingerprint(self) -> str: ...


Section = TypeVar("Section", bound=OfModel)


@functools.cache  # making an adapter of a report takes a moment
def adapter_of(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_section(kind: type[Section], path: Path, *, fingerprint: str) -> Section | None:
    """Read the section of a model; None if there is none, it cannot be read, or it belongs to another model."""
    try:
        section = adapter_of(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return section if section.model_fingerprint == fingerprint else None
