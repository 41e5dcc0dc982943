"""The page that describes the requests, made from the OpenAPI schema; it loads nothing from other sites."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lvm_pipeline.evaluation.pages import render
from lvm_pipeline.tables import Column, Table

EXAMPLE = '{\n  "texts": ["The first concept.", "The second concept."],\n  "nearest": 3\n}'


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a body."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One path with its method; tables of the fields of its bodies where they are JSON objects."""

    method: str
    path: str
    summary: str
    request: Table[Field] | None
    answers: tuple[tuple[str, str, Table[Field] | None], ...]  # status, meaning, fields


def api_page(schema: Mapping[str, Any]) -> str:
    """Return the page of an application's OpenAPI schema."""
    return render(
        "api.html.jinja",
        title=schema["info"]["title"],
        description=schema["info"].get("description", ""),
        operations=list(operations(schema)),
        example=EXAMPLE,
    )


def operations(schema: Mapping[str, Any]) -> Iterator[Operation]:
    """Yield every operation of an OpenAPI schema, in its order."""
    for path, methods in schema["paths"].items():
        for method, found in methods.items():
            yield Operation(
                method=method.upper(),
                path=path,
                summary=found.get("description", found.get("summary", "")),
                request=_fields(found.get("requestBody", {}), schema),
                answers=tuple(
                    (status, answer.get("description", ""), _fields(answer, schema))
                    for status, answer in found.get("responses", {}).items()
                ),
            )


def _fields(body: Mapping[str, Any], schema: Mapping[str, Any]) -> Table[Field] | None:
    """Return the fields of a body; None if it is not a JSON object."""
    content = body.get("content", {}).get("application/json", {}).get("schema", {})
    found = _resolved(content, schema)
    properties = found.get("properties")
    if not properties:
        return None
    required = found.get("required", ())
    rows = [_field(name, values, schema, is_required=name in required) for name, values in properties.items()]
    columns: list[Column[Field]] = [
        Column(title="field", text=lambda row: row.name, is_text=True),
        Column(title="type", text=lambda row: row.kind, is_text=True),
        Column(title="default", text=lambda row: row.default, is_text=True),
        Column(title="meaning", text=lambda row: row.meaning, is_text=True),
    ]
    return Table(columns=columns, rows=rows)


def _field(name: str, values: Mapping[str, Any], schema: Mapping[str, Any], *, is_required: bool) -> Field:
    default = "required" if is_required else _in_json(values.get("default"))
    return Field(name=name, kind=_kind(values, schema), default=default, meaning=values.get("description", ""))


def _kind(values: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    values = _resolved(values, schema)
    if "anyOf" in values:
        return " or ".join(_kind(each, schema) for each in values["anyOf"])
    if values.get("type") == "array":
        return f"list of {_kind(values.get('items', {}), schema)}"
    limits = [f"{sign} {values[name]:g}" for name, sign in (("minimum", "≥"), ("maximum", "≤")) if name in values]
    return " ".join([values.get("type", "any"), *limits])


def _resolved(values: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = values.get("$ref")
    if reference is None:
        return values
    found: Any = schema
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _in_json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
