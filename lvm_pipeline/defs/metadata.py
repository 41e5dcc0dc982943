"""Metadata of assets in the Dagster UI: row counts, column schemas, numbers, links, tables and plots."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from lvm_pipeline.settings import Settings
from lvm_pipeline.tables import table_of

VERDICT = "Verdict"  # the UI sorts metadata by name, capitals first
ROW_COUNT = "dagster/row_count"
COLUMN_SCHEMA = "dagster/column_schema"
URI = "dagster/uri"


def parquet_metadata(path: Path, meanings: Mapping[str, str]) -> dict[str, Any]:
    """Return row count, columns with their descriptions, size and path of a Parquet file."""
    file = pq.ParquetFile(path)
    return {
        ROW_COUNT: file.metadata.num_rows,
        COLUMN_SCHEMA: table_schema(file.schema_arrow, meanings),
        "size_bytes": path.stat().st_size,
        "row_groups": file.metadata.num_row_groups,
        "path": dg.MetadataValue.path(path),
        URI: path.as_uri(),
    }


def table_schema(schema: pa.Schema, meanings: Mapping[str, str]) -> dg.TableSchema:
    """Return a Parquet schema as a Dagster table schema, with a description of each column."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=str(field.type),
                description=meanings[field.name],
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the finite numbers among some values; floats get four digits, since Dagster shows all there are."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def picture(svg: str, *, title: str, page: str) -> dg.MarkdownMetadataValue:
    """Return an inline image of an SVG, with the style sheet of the HTML page it comes from."""
    style = re.search("<style>.*?</style>", page, re.DOTALL)
    alone = svg.replace(">", f">{style.group() if style else ''}", 1)
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{base64.b64encode(alone.encode()).decode()})")


def page(settings: Settings, path: Path) -> dict[str, dg.MetadataValue]:
    """Return the link to a report that `lvm ui` serves; empty if it was not written."""
    return {"report": dg.MetadataValue.url(settings.page_url(path))} if path.is_file() else {}


def folded(values: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Return values that few readers need as one entry, which Dagster shows on a click."""
    return {"details": dg.MetadataValue.json(dict(values))}


def link(url: str | None) -> dict[str, dg.MetadataValue]:
    """Return the link to an MLflow run; empty if there is none."""
    return {} if url is None else {"mlflow_run": dg.MetadataValue.url(url)}


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(table_of(rows).markdown())


def markdown_list(sentences: Sequence[str]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in sentences) or "(none)")
